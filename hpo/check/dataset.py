"""Are the data there, whole and readable? The manifest against the files; `deep` reads every byte."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.bundled import PlannedData
from hpo.check.findings import Findings
from hpo.config import SweepConfig
from hpo.data.manifest import Manifest, ShardRecord, read_manifest
from hpo.errors import DataError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FEW = 10  # validation samples below which a metric is mostly chance
_OF_ONE_HOST = ("/tmp", "/dev/shm", "/var/tmp", "/run")  # where each host has its own files


@dataclass(frozen=True)
class DataFacts:
    """What the other checks need of the data. image_size: (height, width) of raw images; columns: of a table."""

    num_classes: int
    train: int
    validation: int
    image_size: tuple[int, int] | None
    columns: dict[str, Any] | None = None
    num_bytes: int = 0


def read_facts(config: SweepConfig) -> DataFacts:
    """From the manifest; of the bundled photographs, which the first job unpacks, what is known beforehand.

    Raises:
        DataError: see hpo.data.manifest.
    """
    if config.bundled and not config.data.exists():
        planned = PlannedData()
        return DataFacts(planned.num_classes, planned.splits["train"], planned.splits["validation"], planned.image_size)
    manifest = read_manifest(config.data)
    splits, size = manifest.splits, manifest.num_bytes
    shape = manifest.image_size if manifest.encoding != "jpeg" else None
    return DataFacts(manifest.num_classes, splits["train"], splits["validation"], shape, manifest.columns, size)


def check_dataset(config: SweepConfig, facts: DataFacts, findings: Findings, on_slurm: bool, deep: bool) -> None:
    """`on_slurm`: other hosts are to read them."""
    if config.bundled and not config.data.exists():
        findings.ok("data", f"the bundled photographs, {facts.train} of them to train; the first job unpacks them")
        return
    manifest = read_manifest(config.data)
    with findings.on("data"):
        check_shards(config.data, manifest)
        if deep:
            _check_deeply(config.data)
        read = "every byte as written" if deep else "as large as written"
        where = f"{len(manifest.shards)} shards"
        if manifest.link:
            read = "every image of which can be read" if deep else "linked, not copied; read through HDF5"
            where = manifest.link.path
        findings.ok("data", f"{config.data}: {facts.train} training and {facts.validation} validation samples in "
                            f"{where} of {facts.num_bytes / 1e6:.4g} MB, {read}")  # fmt: skip
    places = [config.data, *([Path(manifest.link.path)] if manifest.link else [])]
    if on_slurm and (hidden := next((place for place in places if lies_on_one_host(place)), None)):
        findings.warn("data", f"data {hidden} lies where each host has files of its own: compute nodes will not "
                              "see it; move it to shared storage.")  # fmt: skip
    if facts.validation < _FEW:
        findings.warn("data", f"only {facts.validation} validation samples: which trial is best is mostly chance; "
                              "prepare the data again with a larger --validation.")  # fmt: skip
    if manifest.duplicates_across_splits:
        findings.warn("data", f"{manifest.duplicates_across_splits} images are in more than one split: values will "
                              "look better than they are; remove them and prepare again.")  # fmt: skip


def check_shards(directory: Path, manifest: Manifest) -> None:
    """Every shard is there, as large as it was written, readable, and begins as HDF5 does; a linked file as it was.

    Raises:
        DataError: one is not; names the first and counts the others.
    """
    if manifest.link:
        manifest.link.file(directory)
    wrong = [problem for shard in manifest.shards if (problem := _what_is_wrong(directory / shard.path, shard))]
    if wrong:
        more = f" (and {len(wrong) - 1} more shards)" if len(wrong) > 1 else ""
        raise DataError(f"data {directory}: {wrong[0]}{more}; copy it again or run prepare.py anew.")


def _what_is_wrong(path: Path, shard: ShardRecord) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            begins = stream.read(len(_SIGNATURE))
    except FileNotFoundError:
        return f"{shard.path} is missing"
    except OSError as error:
        return f"{shard.path} cannot be read ({error.strerror})"
    if size != shard.size:
        return f"{shard.path} has {size} bytes, was written with {shard.size}"
    return "" if begins == _SIGNATURE else f"{shard.path} is no HDF5 file"


def _check_deeply(directory: Path) -> None:
    from hpo.data.check import check  # numpy and h5py, for who asked for it

    damages = check(directory, workers=len(os.sched_getaffinity(0)))
    if damages:
        more = f" (and {len(damages) - 1} more damages)" if len(damages) > 1 else ""
        raise DataError(f"data {directory}: {damages[0]}{more}; `prepare.py --check {directory}` lists them.")


def lies_on_one_host(path: Path) -> bool:
    """Whether `path` is where other hosts have files of their own, as far as its name tells."""
    return any(path.is_relative_to(place) for place in _OF_ONE_HOST)
