"""The searched space in pictures: Optuna's importance, parallel coordinates and slices, drawn by Plotly.

All of values at one rung, as the searcher itself sees them: the value of a trial that was stopped after two epochs says
nothing beside that of one that went the whole way.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.results.insight import Insight, Plot
from hpo.results.read import Results, Row
from hpo.results.wording import count
from hpo.search.optuna_form import domain_of, shown_value
from hpo.search.slices import arrange_slices
from hpo.space import Space, space_from_json

if TYPE_CHECKING:
    import optuna

_ENOUGH = 30  # trials for more than a hint
_FEWEST = 8  # trials at a rung of which something can be said
_MOST_LINES = 400  # each is drawn for itself
_DULL, _BRIGHT = (147, 161, 174), (224, 123, 0)  # seen on a white page and on a black one
_SCALE = [[0, f"rgb{_DULL}"], [1, f"rgb{_BRIGHT}"]]


@dataclass(frozen=True)
class _Basis:
    """Trials that reached one rung, and their values there."""

    rows: Sequence[Row]
    values: Sequence[float]
    words: str


def draw_insight(results: Results) -> Insight:
    """The figures of a sweep; with too few trials only a sentence that says so."""
    space = space_from_json(results.settings.get("space", []), results.constants)
    if not space.dimensions:
        return Insight("What was searched is not known here: resolved.json is missing, or nothing was searched.")
    basis = _choose_basis(results, space)
    if basis is None:
        return Insight(f"Too few trials have reached a rung to say which key matters: at least {_FEWEST} are needed.")
    study = _study(results, space, basis)
    keys = [d.name for d in space.dimensions if len({json.dumps(row.params.get(d.key)) for row in basis.rows}) > 1]
    plots = _plots(results, study) if keys else []
    return Insight(basis.words, _importance(study), plots, _library() if plots else "")


def _choose_basis(results: Results, space: Space) -> _Basis | None:
    """The highest rung that enough trials have reached: as many as the model would want, and twice."""
    wanted = max(2 * _FEWEST, 2 * (len(space.dimensions) + 1))
    found: dict[int, list[tuple[Row, float]]] = {}
    for row in sorted(results.rows, key=lambda row: row.number):
        for decision in row.decisions:
            if decision["type"] == "decided" and decision.get("value") is not None:
                found.setdefault(decision["rung"], []).append((row, float(decision["value"])))
    enough = [rung for rung, pairs in found.items() if len(pairs) >= wanted]
    rung = max(enough, default=0) or min(found, default=0)
    if not rung or len(found[rung]) < _FEWEST:
        return None
    epochs = sorted({d["epoch"] for row, _ in found[rung] for d in row.decisions if d["rung"] == rung})
    at = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
    reached = count(len(found[rung]), "trial")
    words = (
        f"All of this is about {results.metric} at rung {rung} ({at}), which {reached} reached: values of different "
        "epochs cannot be compared."
    )
    if len(found[rung]) < _ENOUGH:
        words += " So few say little: take what follows as a hint."
    return _Basis([row for row, _ in found[rung]], [value for _, value in found[rung]], words)


def _study(results: Results, space: Space, basis: _Basis) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if results.maximise else "minimize")
    names, trials = _names(results, space), []
    for row, value in zip(basis.rows, basis.values, strict=True):
        active = [d for d in space.active(row.params) if _inside(d, row.params[d.key])]
        trials.append(
            optuna.trial.create_trial(
                value=value,
                params={names[d.name]: shown_value(d, row.params[d.key]) for d in active},
                distributions={names[d.name]: domain_of(d) for d in active},
                user_attrs={"trial": row.trial},
            )
        )
    study.add_trials(trials)
    return study


def _inside(dimension: Any, value: Any) -> bool:
    domain = domain_of(dimension)
    return domain._contains(domain.to_internal_repr(shown_value(dimension, value)))


def _importance(study: optuna.Study) -> list[tuple[str, float]]:
    """Shares by key, largest first; [] where nothing can be said (one value everywhere)."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):
            return []
    shares = sum(found.values()) or 1.0
    return [(name, share / shares) for name, share in found.items()]


def _plots(results: Results, study: optuna.Study) -> list[Plot]:
    import optuna.visualization as visualization

    few = _thinned(study, results.maximise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel = visualization.plot_parallel_coordinate(few, target_name=results.metric, params=_common(few))
        slices = _plain(visualization.plot_slice(study, target_name=results.metric), 440)
    numbers = [int(trial.user_attrs["trial"]) for trial in study.trials]  # once: each `trials` copies all of them
    for trace in slices["data"]:  # Optuna counts the trials of this study alone
        trace["marker"]["color"] = [numbers[place] for place in trace["marker"]["color"]]
    lines = "Each line is a trial, the best ones bright: where bright lines run together, there good values lie."
    if len(few.trials) < len(study.trials):
        lines += f" {len(few.trials)} of {len(study.trials)} are drawn: the best ones and a sample of the others."
    dots = "Each dot is a trial: its value against one key at a time. Later trials are brighter: where the search went."
    return [
        Plot("parallel", "Parallel coordinates", lines, _brightened(_plain(parallel, 420), results.maximise)),
        Plot("slices", "Slices", dots, arrange_slices(slices)),
    ]


def _thinned(study: optuna.Study, maximise: bool) -> optuna.Study:
    """At most _MOST_LINES trials: the best ones, and of the others each so-manieth."""
    import optuna

    trials = study.trials
    if len(trials) <= _MOST_LINES:
        return study
    ranked = sorted(trials, key=lambda trial: trial.value or 0.0, reverse=maximise)
    best, others = ranked[: _MOST_LINES // 2], ranked[_MOST_LINES // 2 :]
    step = -(-len(others) // (_MOST_LINES // 2))
    thinned = optuna.create_study(direction="maximize" if maximise else "minimize")
    thinned.add_trials([*best, *others[::step]])
    return thinned


def _brightened(figure: dict[str, Any], maximise: bool) -> dict[str, Any]:
    """Parallel coordinates with lines from dull to bright, the best on top. The first axis is the metric, 0 to 1."""
    lines = [trace for trace in figure["data"] if trace.get("mode") == "lines"]
    others = [trace for trace in figure["data"] if trace.get("mode") != "lines"]
    lines.sort(key=lambda trace: trace["y"][0], reverse=not maximise)
    for trace in lines:
        share = trace["y"][0] if maximise else 1 - trace["y"][0]
        colour = tuple(round(dull + share**2 * (bright - dull)) for dull, bright in zip(_DULL, _BRIGHT, strict=True))
        trace["line"]["color"] = f"rgb{colour}"
    return {**figure, "data": [*lines, *others]}


def _common(study: optuna.Study) -> list[str]:
    """The keys that every trial has: a line cannot pass an axis on which it has no place."""
    sets = [set(trial.params) for trial in study.trials]
    return [name for name in study.trials[0].params if all(name in found for found in sets)]


def _names(results: Results, space: Space) -> dict[str, str]:
    """A dimension's name in few letters: '#2' stays where a key has several domains."""
    return {d.name: d.name.replace(d.key, results.columns.get(d.key, d.key)) for d in space.dimensions}


def _plain(figure: Any, height: int) -> dict[str, Any]:
    """A figure as JSON, in plain numbers and without Plotly's template, coloured for light and dark pages."""
    content = json.loads(figure.to_json())
    for trace, original in zip(content["data"], figure.data, strict=True):
        for axis in ("x", "y"):
            if isinstance(trace.get(axis), dict):  # base64 of numpy's bytes
                trace[axis] = getattr(original, axis).tolist()
        if "marker" in trace:
            trace["marker"] |= {"colorscale": _SCALE, "size": 6, "line": {"width": 0}}
    layout = {key: value for key, value in content["layout"].items() if key not in ("template", "title", "width")}
    for name, axis in layout.items():
        if name.startswith(("xaxis", "yaxis")):
            axis["automargin"] = True
    for note in layout.get("annotations", []):
        note.get("font", {}).pop("color", None)  # the page's own
    layout |= {"height": height, "margin": {"l": 70, "r": 50, "t": 50, "b": 60}}
    return {"data": content["data"], "layout": layout}


def _library() -> str:
    """Plotly's JavaScript as the package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
