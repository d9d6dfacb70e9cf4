"""What of a sweep's directory may go: checkpoints that nothing needs any more, and what killed jobs left half done.

Only what slurmtune itself wrote, known by place, name and content; a folder that holds anything else stays whole.

Files of a trial: params.json, result.json, progress.csv, log.txt and one events.out.tfevents.* an attempt; in
checkpoint/ two last-N of four files and `num_to_keep` best-N of three. With the default of 3 that is 22 files, of
which clean.py leaves 5, and 3 more for each of the best trials.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpo.records import FINAL_STATES
from hpo.results.read import Results, Row

_CHECKPOINT = re.compile(r"(last|best)-(\d{4,})")
_UNFINISHED = re.compile(r"\.tmp-(?:last|best|old)-[0-9a-f]{8}")
_OURS = re.compile(r"weights\.safetensors|state\.pt|meta\.json|MANIFEST\.json|\.(?:meta|MANIFEST)\.json\..{8}")


@dataclass(frozen=True)
class Leftover:
    """A folder that may go. `why` in words."""

    path: Path
    files: int
    size: int  # bytes; those with a second name elsewhere are not freed by it
    why: str


@dataclass(frozen=True)
class Plan:
    """`kept`: bytes of checkpoints that stay. `foreign`: folders left alone, as they hold what is not ours."""

    leftovers: list[Leftover]
    kept: int
    foreign: list[Path]

    @property
    def size(self) -> int:
        return sum(leftover.size for leftover in self.leftovers)


def plan_cleaning(results: Results, keep_trials: int, budget: int | None = None) -> Plan:
    """What may go when the `keep_trials` best trials keep their best epoch, and together at most `budget` bytes.

    The best trial always keeps its own; a trial that has not ended keeps all, to go on from.
    """
    plan = Plan([], 0, [])
    kept, left = 0, budget
    for row in results.rows:
        folder = results.directory.checkpoints(row.trial)
        found = [path for path in _folders(folder) if _is_ours(path, plan)]
        good = row.rank is not None and row.rank <= keep_trials
        best = _best_of(found, row) if good else None
        if best and left is not None and row.rank != 1:
            best = best if kept + checkpoint_size(best)[1] <= left else None
        for path in found:
            why = _reason(path, row, best, good)
            files, size = checkpoint_size(path)
            if why:
                plan.leftovers.append(Leftover(path, files, size, why))
            else:
                kept += size
    return Plan(plan.leftovers, kept, plan.foreign)


def checkpoint_folders(folder: Path) -> list[tuple[str, Path]]:
    """Kind and path of each checkpoint in a trial's checkpoint folder that holds nothing but ours; last or best."""
    found = [(match[1], path) for path in _folders(folder) if (match := _CHECKPOINT.fullmatch(path.name))]
    return [(kind, path) for kind, path in found if _holds_ours(path)]


def remove_checkpoint(path: Path) -> None:
    """Out of sight first, so that no reader takes a half for a whole. Raises OSError."""
    hidden = path if path.name.startswith(".tmp-") else path.with_name(f".tmp-old-{uuid.uuid4().hex[:8]}")
    if hidden != path:
        path.rename(hidden)
    shutil.rmtree(hidden)


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir() and not folder.is_symlink():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _holds_ours(path: Path) -> bool:
    return all(entry.is_file() and _OURS.fullmatch(entry.name) for entry in path.iterdir())


def _is_ours(path: Path, plan: Plan) -> bool:
    """Known by its name and by holding nothing but what a checkpoint holds."""
    named = _CHECKPOINT.fullmatch(path.name) or _UNFINISHED.fullmatch(path.name)
    if named and _holds_ours(path):
        return True
    plan.foreign.append(path)
    return False


def _best_of(found: list[Path], row: Row) -> Path | None:
    """The checkpoint of its best epoch, or of the nearest one before."""
    numbered = [
        (int(match[2]), path) for path in found if (match := _CHECKPOINT.fullmatch(path.name)) and match[1] == "best"
    ]
    exact = [path for epoch, path in numbered if epoch == row.best_epoch]
    return exact[0] if exact else max(numbered)[1] if numbered else None


def _reason(path: Path, row: Row, best: Path | None, good: bool) -> str:
    """Why it may go; '' when it stays."""
    match = _CHECKPOINT.fullmatch(path.name)
    if row.state not in FINAL_STATES:
        return ""  # also half-written ones: a job may be at it
    if match is None:
        return "half written"
    if path == best:
        return ""
    if match[1] == "last":
        return f"to go on from, but the trial has {row.state}"
    return "an epoch that is not its best" if best else "over the budget" if good else "not among the best trials"


def checkpoint_size(folder: Path) -> tuple[int, int]:
    """Files and bytes of a checkpoint; of a file with two names, half for each."""
    stats = [entry.stat() for entry in folder.iterdir()]
    return len(stats), sum(stat.st_size // stat.st_nlink for stat in stats)
