"""What earlier sweeps teach a new one: their best configurations, and their values where those can be compared.

Values count only if data, metric, space, fixed keys and rungs are all the same: then the model knows them at once.
Otherwise the best configurations of each earlier sweep are tried first, as far as the new space has them; that
costs a few trials, which ASHA stops early where the old sweep knew nothing of use.

All is read at submission and kept in resolved.json, so that the earlier directories are not needed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from hpo.layout import SweepDirectory, open_sweep, read_json
from hpo.options import options_for
from hpo.records import SweepState, read_events
from hpo.space import Choice, Dimension, Params, Space, space_from_json

_POINTS = 3  # best configurations of a sweep whose values do not count; of one whose values do, the best one
_MOST_POINTS = 6
_SAME = ("metric", "mode", "fingerprint", "max_epochs", "constants", "space")  # of resolved.json, for values to count
_SAME_TUNE = ("reduction_factor", "grace_period")

Earlier = dict[str, Any]  # points: [{params, from}], observations: [{params, values}], sweeps: [directory]


def read_earlier(directories: Sequence[str | Path], resolved: Mapping[str, Any], space: Space) -> Earlier:
    """What the sweeps in `directories` are worth to the one that is described by `resolved` (its resolved.json).

    Raises:
        UsageError: one of them is no sweep, or has no trial with a value.
        JournalError: its journal is damaged.
    """
    earlier: Earlier = {"points": [], "observations": [], "sweeps": []}
    for path in directories:
        directory = open_sweep(path)
        old, state = read_json(directory.resolved), SweepState(read_events(directory.journal))
        if not state.incumbent():
            raise UsageError(f"warm_start: no trial of {path} has a value; leave it out.")
        comparable = _comparable(old, resolved)
        if comparable:
            earlier["observations"] += _observations(state)
        earlier["points"] += _points(directory, old, state, space, 1 if comparable else _POINTS)
        earlier["sweeps"].append({"directory": str(directory.root), "values": comparable})
    earlier["points"] = _different(earlier["points"], space)[:_MOST_POINTS]
    return earlier


def _comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    tunes = old.get("tune", {}), new["tune"]
    same_rungs = all(tunes[0].get(key) == tunes[1].get(key) for key in _SAME_TUNE)
    alone = not new.get("objectives")  # values of the metric alone say nothing of the others
    return alone and bool(new.get("fingerprint")) and same_rungs and all(old.get(key) == new.get(key) for key in _SAME)


def _observations(state: SweepState) -> list[dict[str, Any]]:
    return [
        {"params": trial.params, "values": [d["value"] for d in trial.decisions if d["type"] == "decided"]}
        for trial in state.trials.values()
        if trial.decisions
    ]


def _points(
    directory: SweepDirectory, old: Mapping[str, Any], state: SweepState, space: Space, most: int
) -> list[dict[str, Any]]:
    before = space_from_json(old["space"], old["constants"])
    found = []
    for trial in state.ranking():
        params = _carry_over({**before.constants, **trial.params}, space)
        if params is not None:
            found.append({"params": params, "from": f"trial {trial.id} of {directory.root.name}"})
    return _different(found, space)[:most]


def _carry_over(values: Params, space: Space) -> Params | None:
    """`values` in the new space: numbers moved into their range, the default where a key is new; None when one of its
    choices is not there any more."""
    lost, options = False, options_for(space, values)

    def pick(dimension: Dimension) -> Any:
        nonlocal lost
        value, domain = {**values, **options}.get(dimension.key, dimension.default), dimension.domain
        if not isinstance(domain, Choice):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return domain.clip(value) if is_number else dimension.default
        lost = lost or value not in domain.options
        return value if value in domain.options else dimension.default

    params = space.build(pick)
    return None if lost else params


def _different(points: Sequence[dict[str, Any]], space: Space) -> list[dict[str, Any]]:
    """Each configuration once, and not the default, which is trial 0 anyway."""
    kept: list[dict[str, Any]] = []
    for point in points:
        if point["params"] not in [space.default(), *(other["params"] for other in kept)]:
            kept.append(point)
    return kept
