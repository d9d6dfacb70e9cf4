"""Why a trial is where it is: who suggested it and knowing what, and what each rung said of it among whom."""

from __future__ import annotations

from collections.abc import Callable

from hpo.records import FINAL_STATES, Event
from hpo.results.read import Results, Row
from hpo.results.seen import describe_evidence
from hpo.results.wording import count, metric_format, one_line, value_text

_SHOWN = 10  # values at a rung that are listed
_ORIGINS = {
    "default": "It is the default configuration, tried first so that the search can be judged.",
    "user": "It was given in points_to_evaluate.",
    "random": "It was drawn at random: the searcher had too few values to model, or wanted one that is not its own.",
}


def explain_trial(results: Results, row: Row) -> list[str]:
    """The story of a trial, a line a sentence."""
    write = metric_format([row.value, *(value for _, value in row.curve)])
    lines = [f"Trial {row.trial}: {row.reason}.", "", "Why it was tried", f"  {_origin(row)}"]
    lines += describe_evidence(results, row, write)
    lines += [f"  {text}" for text in _changes(results, row)]
    lines += ["", "Why it went on or ended"]
    for decision in row.decisions:
        lines += [f"  {text}" for text in _verdict(results, row, decision, write)]
    for judgement in row.judgements:
        did = "paused" if judgement["action"] == "pause" else "stopped"
        lines.append(f"  {one_line(judgement['by'])} {did} it at epoch {judgement['epoch']}.")
    for failure in row.failures:
        again = "was run again" if failure.get("retry") else "was given up"
        lines.append(f"  It failed ({one_line(failure['kind'])}: {one_line(failure['cause'])}) and {again}.")
    if not row.decisions and not row.failures:
        lines.append("  It came to no rung." if row.state in FINAL_STATES else "  It has not come to a rung yet.")
    lines.append(f"  {_place(results, row, write)}")
    return lines


def _origin(row: Row) -> str:
    if row.origin == "model":
        knew, _, which = row.note.partition("; ")  # as hpo.search.bayes writes it
        model = f"model ({which})" if which else "model"
        known = f" from what it knew of {knew}" if knew else ""
        return f"The Bayesian searcher's {model} suggested it{known}."
    if row.origin == "earlier":
        return f"It was one of the best of an earlier sweep ({row.note}), given by warm_start."
    if row.origin == "searcher":
        return f"{one_line(row.note)} suggested it."
    return _ORIGINS.get(row.origin, f"Suggested by {row.origin}.")


def _changes(results: Results, row: Row) -> list[str]:
    """Against the default configuration, key by key."""
    default = results.default
    if default is None or default is row:
        return []
    changed = [
        f"{name} {value_text(row.params.get(key))} (default {value_text(default.params.get(key))})"
        for key, name in results.columns.items()
        if row.params.get(key) != default.params.get(key)
    ]
    return [f"Against trial {default.trial}: {', '.join(changed)}."] if changed else []


def _verdict(results: Results, row: Row, decision: Event, write: Callable[[float | None], str]) -> list[str]:
    rung, epoch = decision["rung"], decision["epoch"]
    if decision.get("value") is None:
        return [f"Rung {rung} (epoch {epoch}): {results.metric} was not finite, so it was stopped at once."]
    at_end = row.state == "completed" and epoch == row.epochs
    action = _action(decision, at_end, write(decision["value"]))
    said = f"Rung {rung} (epoch {epoch}): {action}, rank {decision['rank']} of {decision['of']}"
    bar = None if at_end else decision.get("cutoff")
    cutoff = f"; to go on it had to beat {write(bar)}" if bar is not None else ""
    reduction = results.settings.get("tune", {}).get("reduction_factor")
    few = bool(reduction) and decision["of"] < reduction
    told = (
        f"while fewer than {reduction} have come, the best so far goes on" if few else f"the best 1/{reduction} go on"
    )
    rule = f" ({told})" if reduction and (cutoff or results.objectives) else ""
    if results.objectives:
        cutoff = f" by how many are better in all of {', '.join([results.metric, *results.objectives])}"
    elif decision["action"] == "continue" and not cutoff and not at_end:
        cutoff = "; it was the first to come" if decision["of"] == 1 else "; too few had come to stop any"
    return [f"{said}{cutoff}{rule}.", *_company(results, row, decision, write)]


def _action(decision: Event, at_end: bool, value: str) -> str:
    if decision["type"] == "reviewed":
        return "looked at again and promoted" if decision["action"] == "continue" else "still paused at the sweep's end"
    words = {"stop": "stopped", "pause": "paused"}
    return f"{'reached its end' if at_end else words.get(decision['action'], 'went on')} with {value}"


def _company(results: Results, row: Row, decision: Event, write: Callable[[float | None], str]) -> list[str]:
    """Who had come to the rung before it, best first."""
    earlier = [
        (other["value"], them.trial)
        for them in results.rows
        for other in them.decisions
        if (other["type"], other["rung"]) == ("decided", decision["rung"])
        and them.trial != row.trial
        and other["n"] < decision["n"]
        and other.get("value") is not None
    ]
    if not earlier:
        return ["    It was the first there." if decision["type"] == "decided" else "    It was alone there."]
    earlier.sort(reverse=results.maximise)
    shown = ", ".join(f"{write(value)} ({trial})" for value, trial in earlier[:_SHOWN])
    more = f" and {len(earlier) - _SHOWN} more" if len(earlier) > _SHOWN else ""
    when = "There before it" if decision["type"] == "decided" else "There by then"
    return [f"    {when}: {shown}{more}."]


def _place(results: Results, row: Row, write: Callable[[float | None], str]) -> str:
    ranked = sum(other.rank is not None for other in results.rows)
    if not row.rank:
        return f"It has no value of {results.metric}, so no rank."
    best = results.best
    behind = "" if best is None or best is row else f", {write(abs((best.value or 0) - (row.value or 0)))} behind"
    whole = f"rank {row.rank} of {count(ranked, 'trial')}"
    return f"By its best epoch ({row.best_epoch}, {write(row.value)}) it is {whole} now{behind}."
