"""The photographs that come with slurmtune: where they are unpacked and what a sweep may know of them before that.

Unpacking itself is hpo.data.bundled's and happens in the job, on shared storage, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

BUNDLED = "bundled:clothing"  # what a sweep file says under 'data'


@dataclass(frozen=True)
class PlannedData:
    """What hpo.data.manifest.describe will say of them, as far as a sweep file is checked against it."""

    task: str = "classification"
    splits: dict[str, int] = field(default_factory=lambda: {"train": 3068, "validation": 341, "test": 372})
    columns: None = None
    num_classes: int = 10
    image_size: tuple[int, int] = (64, 64)


def bundled_directory(runs: Path) -> Path:
    """Beside the sweeps: the one place of which we know that compute nodes see it."""
    return (runs / "data" / "clothing-64px").absolute()
