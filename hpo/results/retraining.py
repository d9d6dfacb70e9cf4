"""The best trials trained again with other seeds: what they are worth on average, and whether they differ at all.

DIR/retrain/seed-N/ is a sweep of its own, without stopping: the default configuration and the candidates, all trained
to their end with seed N. A candidate was chosen for its value in the search, so that value flatters it; the mean over
fresh seeds does not. The gap between the two is the winner's curse.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.layout import SweepDirectory
from hpo.results.read import Results, Row, read_results
from hpo.results.table import align
from hpo.results.wording import count, metric_format

# Student's t, two-sided 95 %, by degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A trial of the search and its values by seed; `searched`: the value by which the search chose it."""

    trial: str
    params: dict[str, Any]
    searched: float
    values: dict[int, float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; nan of fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class Retraining:
    """`candidates`: best mean first. `behind`: of each other one, how far its mean is behind and the 95 % half width of
    that, paired by seed; None of fewer than two shared seeds. `unfinished`: seeds whose sweep has not ended."""

    metric: str
    maximise: bool
    candidates: list[Candidate]
    behind: dict[str, tuple[float, float] | None]
    seeds: list[int]
    unfinished: list[int]

    @property
    def equal(self) -> list[str]:
        """Trials that cannot be told from the best one by these seeds."""
        return [trial for trial, found in self.behind.items() if found is None or found[0] <= found[1]]


def seed_folders(directory: SweepDirectory) -> dict[int, Path]:
    """Seed -> its sweep's directory."""
    found = directory.root.glob("retrain/seed-*")
    return {int(path.name[5:]): path for path in sorted(found) if path.name[5:].isdecimal()}


def choose_candidates(results: Results, top: int) -> list[Row]:
    """The `top` best trials with configurations that differ; trial 0 is trained in any case."""
    chosen: list[Row] = []
    for row in results.rows:
        known = [dict(other.params) for other in [*chosen, *([results.default] if results.default else [])]]
        if row.rank and (dict(row.params) not in known or row is results.default):
            chosen.append(row)
        if len(chosen) == top:
            break
    return chosen


def read_retraining(results: Results) -> Retraining:
    """What the seeds that there are say so far.

    Raises:
        JournalError: a seed's journal is damaged.
    """
    found: dict[str, Candidate] = {}
    unfinished = []
    folders = seed_folders(results.directory)
    for seed, folder in folders.items():
        retrained = read_results(SweepDirectory(folder))
        if retrained.status != "ended":
            unfinished.append(seed)
        for row in retrained.rows:
            original = _original(results, row)
            if original and original.value is not None and row.value is not None and row.state == "completed":
                candidate = Candidate(original.trial, dict(original.params), original.value, {})
                found.setdefault(original.trial, candidate).values[seed] = row.value
    sign = -1 if results.maximise else 1
    ordered = sorted(found.values(), key=lambda candidate: sign * candidate.mean)
    behind = {other.trial: _paired(ordered[0], other, results.maximise) for other in ordered[1:]}
    return Retraining(results.metric, results.maximise, ordered, behind, list(folders), unfinished)


def _original(results: Results, row: Row) -> Row | None:
    """The trial of the search with the same configuration; of several the best."""
    return next((other for other in results.rows if dict(other.params) == dict(row.params)), None)


def _paired(best: Candidate, other: Candidate, maximise: bool) -> tuple[float, float] | None:
    seeds = [seed for seed in best.values if seed in other.values]
    if len(seeds) < 2:
        return None
    sign = 1 if maximise else -1
    differences = [sign * (best.values[seed] - other.values[seed]) for seed in seeds]
    t = _T[len(seeds) - 2] if len(seeds) - 2 < len(_T) else 1.96
    return statistics.fmean(differences), t * statistics.stdev(differences) / math.sqrt(len(seeds))


def render_retraining(results: Results, found: Retraining) -> list[str]:
    """All of it in words and one table."""
    better = f"{found.metric}, {'higher' if found.maximise else 'lower'} is better"
    table = [better, "", *align(retraining_rows(results, found)), ""] if found.candidates else []
    return [*table, *retraining_words(found)]


def retraining_rows(results: Results, found: Retraining) -> list[tuple[str, ...]]:
    """Titles, then a row a candidate, best mean first."""
    write = metric_format(value for one in found.candidates for value in [one.searched, *one.values.values()])
    rows: list[tuple[str, ...]] = [("trial", "in the search", "mean", "spread", "seeds", "gap", "behind the first")]
    for one in found.candidates:
        spread = write(one.spread) if len(one.values) > 1 else "-"
        gap = (one.searched - one.mean) * (1 if found.maximise else -1)
        rows.append((one.trial + (" default" if results.default and one.trial == results.default.trial else ""),
                     write(one.searched), write(one.mean), spread, str(len(one.values)), f"{gap:+.4f}",
                     _behind(found, one, write)))  # fmt: skip
    return rows


def retraining_words(found: Retraining) -> list[str]:
    """What the table means, a line a sentence or two."""
    if not found.candidates:
        return [f"No retrained trial has ended yet ({count(len(found.seeds), 'seed')} begun)."]
    first = found.candidates[0]
    equal = [trial for trial in found.equal if trial != first.trial]
    if len(found.seeds) < 2:
        lines = ["One seed says nothing about noise: give --seeds 3 or more."]
    elif equal:
        lines = [f"Equal within noise: {', '.join([first.trial, *equal])}. Take the cheapest of them."]
    else:
        lines = [f"Trial {first.trial} is better than the others beyond the noise of {len(found.seeds)} seeds."]
    lines.append("gap: how much better a value in the search was than the mean over fresh seeds (the winner's curse).")
    if found.unfinished:
        lines.append(f"Not ended yet: {', '.join(f'seed {seed}' for seed in found.unfinished)}.")
    return lines


def say_test(test: dict[str, Any]) -> str:
    """What was written down when the test split was used."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in test["mean"].items())
    return (
        f"Test split, used once on {test['time']}: trial {test['trial']}, mean of {len(test['seeds'])} seeds: {scores}."
    )


def _behind(found: Retraining, one: Candidate, write: Any) -> str:
    if one.trial not in found.behind:
        return ""
    difference = found.behind[one.trial]
    return f"{write(difference[0])} ± {write(difference[1])}" if difference else "-"


def read_test(directory: SweepDirectory) -> dict[str, Any] | None:
    """What was written down when the test split was used; None: it was not."""
    try:
        return dict(json.loads((directory.root / "retrain" / "test.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
