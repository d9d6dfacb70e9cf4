"""How fast a trial trains here: a few real updates, a few batches of evaluation and one checkpoint, with their times.

python -m hpo.trial.pace < QUESTION.json      # one JSON line a configuration, in their order

A process of its own, with the threads that a trial will have (SLURMTUNE_CPUS).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hpo.errors import SlurmtuneError
from hpo.trial.augment import Augmentation
from hpo.trial.device import set_threads
from hpo.trial.loader import Batch, Loader
from hpo.trial.middle import Middle
from hpo.trial.training import Training
from hpo.trialconfig import TrialConfig

_WARM_UP = 2  # updates that no time is taken of: kernels are chosen and memory is got


@dataclass(frozen=True)
class Pace:
    """Seconds and bytes of one configuration. memory_bytes: of the GPU at most; without one, of the process.
    cpus_used: CPU seconds a second, which on a busy machine are fewer than the trial would use. import_s: from the
    start of the process until torch, timm and the rest were imported.
    device_bytes: all memory that the GPU has, 0 without one.
    compile_s: by how much the first updates and evaluation took longer than others, with env.compile; little where the
    node has the code."""

    device: str
    parameters: int
    memory_bytes: int
    open_s: float  # model, weights and data, in a process that has torch
    update_s: float
    updates: int  # an epoch
    evaluation_s: float  # an epoch
    checkpoint_s: float
    cpus_used: float
    import_s: float = 0.0
    device_bytes: int = 0
    compile_s: float = 0.0


def measure_pace(config: TrialConfig, data: Path, budget_s: float) -> Pace:
    """Trains `config` for about `budget_s` seconds, at least a few updates, in a directory that is removed again.

    Raises:
        SlurmtuneError: it cannot be trained; see Training.
    """
    with tempfile.TemporaryDirectory(prefix="slurmtune-pace-") as folder:
        _forget_peak()
        began = time.perf_counter()
        with contextlib.closing(_Sample(config, data, Path(folder))) as training:
            return training.measure(time.perf_counter() - began, budget_s)


class _Sample(Training):
    """A training that can do a part of an epoch."""

    def measure(self, open_s: float, budget_s: float) -> Pace:
        whole, judged = self._loader, self._validation
        warm_up_s = _seconds(lambda: self._take(whole, _WARM_UP))
        began, used = time.perf_counter(), time.process_time()
        update_s = self._train_for(whole, budget_s)
        cpus_used = (time.process_time() - used) / (time.perf_counter() - began)
        batches = -(-judged._count // self.config.env.batch_size)
        few = max(1, min(batches, round(budget_s / max(update_s, 1e-9))))
        self._validation = _Part(judged, few)  # type: ignore[assignment]
        compiling = self.config.env.compile
        first_s = _seconds(self._evaluate) if compiling else 0.0  # evaluation has code of its own
        began = time.perf_counter()
        metrics = self._evaluate()
        evaluated_s = time.perf_counter() - began
        began = time.perf_counter()
        self._progress.epoch = 1
        self._complete({"epoch": 1, **metrics}, {})
        device = next(self._compute.model.parameters()).device
        return Pace(
            device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            parameters=sum(parameter.numel() for parameter in self._compute.model.parameters()),
            memory_bytes=_peak(device),
            open_s=open_s,
            update_s=update_s,
            updates=len(whole),
            evaluation_s=evaluated_s * batches / few,
            checkpoint_s=time.perf_counter() - began,
            cpus_used=cpus_used,
            device_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0,
            compile_s=max(0.0, warm_up_s - _WARM_UP * update_s + first_s - evaluated_s) if compiling else 0.0,
        )

    def _train_for(self, whole: Loader, budget_s: float) -> float:
        """Seconds of an update, from a whole epoch of them at most."""
        began, done = time.perf_counter(), 0
        few = min(3, len(whole))
        while done == 0 or (time.perf_counter() - began < budget_s and done < len(whole)):
            self._take(whole, few)
            done += few
            passed = time.perf_counter() - began
            few = max(1, min(len(whole) - done, round(done * (budget_s - passed) / passed)))
        return (time.perf_counter() - began) / done

    def _take(self, whole: Loader, few: int) -> None:
        """Some updates; waits for the device at the end."""
        self._loader = _Part(whole, few)  # type: ignore[assignment]
        self._train(1)
        self._loader = whole


class _Part:
    """The first batches of a loader."""

    def __init__(self, loader: Loader, few: int) -> None:
        self._loader, self._few = loader, few
        self.images_an_update = loader.images_an_update

    def __len__(self) -> int:
        return len(self._loader)

    def training(self, augmentation: Augmentation) -> Iterator[Batch]:
        return itertools.islice(self._loader.training(augmentation), self._few)

    def evaluation(self, middle: Middle) -> Iterator[Batch]:
        return itertools.islice(self._loader.evaluation(middle), self._few)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux: the highest resident memory is counted anew from here on
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved())
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main() -> int:
    logging.disable(logging.INFO)
    import_s = _age_s()
    question = json.load(sys.stdin)
    set_threads()
    for case in question["cases"]:
        answer = _answer(case, question)
        sys.stdout.write(json.dumps(answer if "error" in answer else {**answer, "import_s": import_s}) + "\n")
        sys.stdout.flush()
    return 0


def _age_s() -> float:
    """Seconds that this process is old (proc_pid_stat(5): starttime, in clock ticks since boot)."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _answer(case: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    try:
        config = TrialConfig.from_flat(case, metric=question["metric"], mode=question["mode"])
        return asdict(measure_pace(config, Path(question["data"]), question["budget_s"]))
    except SlurmtuneError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    raise SystemExit(main())
