"""Every path of a sweep's directory, and the two ways to write a file there: whole or not at all.

Nobody else joins file names. All paths lie below one directory, so that a moved copy reads the same.

    DIR/ sweep.yaml          the sweep file, byte for byte as the person wrote it
         resolved.json       the same after defaults and flags: the contract between login node and job
         provenance.json     who, when, where, versions, commit
         journal.jsonl       what happened: the truth, see hpo.records
         secrets/            ray_token 0600; searcher.pickle, scheduler.pickle where a person gave instances
         submitit/           submitit's files and the job's logs
         stop.json           there while submit.py --stop wants the sweep to rest
         jobs/               one file for each SLURM job that was submitted for the sweep
         attempts/ID/        rendezvous and logs of one job
         trials/ID/          params.json result.json progress.csv events.out.tfevents.* log.txt log-N.txt checkpoint/
                            fault.txt, while it runs: where it stood when it hung or crashed
         micro_batches.json  what fitted into memory, see hpo.microbatches
         compiled/KEY/       0700: what torch.compile made on nodes alike, see hpo.trial.compilecache
         best/               weights and configuration of the winner
         report.html         the sweep on one page
         optuna-journal.log  the same as an Optuna study, for optuna-dashboard
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import UsageError


@dataclass(frozen=True)
class SweepDirectory:
    """Names the files of the sweep in `root`."""

    root: Path

    @property
    def sweep_file(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def resolved(self) -> Path:
        return self.root / "resolved.json"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def token(self) -> Path:
        return self.secrets / "ray_token"

    @property
    def submitit(self) -> Path:
        return self.root / "submitit"

    @property
    def stop_request(self) -> Path:
        return self.root / "stop.json"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def optuna_journal(self) -> Path:
        return self.root / "optuna-journal.log"

    @property
    def micro_batches(self) -> Path:
        return self.root / "micro_batches.json"

    @property
    def compiled(self) -> Path:
        return self.root / "compiled"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    def attempt(self, attempt_id: str) -> Path:
        return self.attempts / attempt_id

    def attempt_folders(self) -> list[Path]:
        """One for each attempt; [] before the first."""
        try:
            with os.scandir(self.attempts) as entries:
                return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        except FileNotFoundError:
            return []

    def trial(self, trial_id: str) -> Path:
        return self.root / "trials" / trial_id

    def fault(self, trial_id: str) -> Path:
        return self.trial(trial_id) / "fault.txt"

    def checkpoints(self, trial_id: str) -> Path:
        return self.trial(trial_id) / "checkpoint"


def absolute(path: str | Path) -> Path:
    """`path` from the root, without '..' and '~'; links are kept, since a cluster's paths often are links."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  Path.absolute keeps '..'


def open_sweep(path: str | Path) -> SweepDirectory:
    """The sweep in directory `path`.

    Raises:
        UsageError: `path` is not a directory that a sweep was written to.
    """
    directory = SweepDirectory(absolute(path))
    if not directory.resolved.is_file():
        raise UsageError(
            f"{path} is not a sweep directory (it has no resolved.json); name the directory that submit.py printed."
        )
    return directory


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes `text` to `path` so that a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode("utf-8"), mode)


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes `content` to `path`, whole.

    Temporary file beside it, fsync, rename, fsync of the folder: the order that survives a power cut.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the kernel does not say of which file it has no room for more
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """`value` as indented JSON, written whole (see write_text)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", mode)


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        UsageError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable JSON ({error}); restore it from a copy.") from None


def sync_folder(folder: Path) -> None:
    """Makes a rename or creation inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
