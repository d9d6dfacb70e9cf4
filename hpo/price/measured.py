"""Seconds and memory of each kind of trial that the space can ask for: from before, measured here, or by a short job.

Two configurations are of one kind if nothing that takes time tells them apart: model, image size, batch, precision,
augmentation. What was measured is kept for the versions of torch and timm, the data and the place: this machine with
so many threads, or a partition with its GPU type.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from subprocess import PIPE
from typing import Any

from hpo.cache import Cache
from hpo.cluster.commands import ask_slurm, run_sbatch
from hpo.cluster.request import SlurmRequest
from hpo.config import SweepConfig
from hpo.errors import ClusterError, TrialError
from hpo.trialconfig import TrialConfig

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLES = 500
_MOST = 16  # kinds that are measured; the rarer ones take the pace of the nearest
_START_S = 300.0  # for a process to import everything, on a slow file system
_KIND_S = 300.0  # for a kind, on a machine with much else to do
_BUDGET_S = 3.0  # for the updates of one kind
_PROBE_MINUTES = 15
_POLL_S = 2.0
_SIZE, _MODEL = "model.timm_image.image_size", "model.timm_image.checkpoint_name"
_TIMELY = (  # keys that take time
    _MODEL, _SIZE, "model.timm_image.train_transforms", "model.timm_image.drop_path_rate", "optim.optim_type",
    "optim.peft", "optim.ema_decay", "env.batch_size", "env.per_gpu_batch_size", "env.precision", "env.num_workers",
    "env.compile",
    "data.mixup.turn_on", "model.names",
)  # fmt: skip

Case = dict[str, Any]


@dataclass(frozen=True)
class Pace:
    """What hpo.trial.pace measured of one kind."""

    device: str
    parameters: int
    memory_bytes: int
    open_s: float
    update_s: float
    updates: int
    evaluation_s: float
    checkpoint_s: float
    cpus_used: float
    import_s: float = 3.5  # where it was not measured: on an idle machine
    device_bytes: int = 0  # memory of the GPU; 0: there was none, or an older version measured
    compile_s: float = 0.0  # of the first trial of the kind, with env.compile

    @property
    def epoch_s(self) -> float:
        return self.update_s * self.updates + self.evaluation_s + self.checkpoint_s


@dataclass(frozen=True)
class Place:
    """Where trials run. `request`: None is this machine; `cpus`: of one trial; `at_once`: trials on a host."""

    request: SlurmRequest | None
    cpus: float
    at_once: int

    @property
    def name(self) -> str:
        if self.request is None:
            return f"this machine with {self.cpus:g} CPUs a trial"
        gpus = f"{self.request.gpu_type or 'any'} GPU" if self.request.gpus_per_node else "no GPU"
        return f"partition {self.request.partition}, {gpus}, {self.cpus:g} CPUs a trial"


class Measured:
    """The paces of a sweep's kinds at one place."""

    def __init__(self, config: SweepConfig, place: Place) -> None:
        self._config, self.place, self._cache = config, place, Cache("pace")
        counts, cases = _count_kinds(config)
        common = sorted(counts, key=lambda name: -counts[name])[:_MOST]
        self.cases = [cases[name] for name in common]
        self.shares = [counts[name] / sum(counts.values()) for name in common]
        self.paces: list[Pace | None] = [self._known(case) for case in self.cases]

    @property
    def missing(self) -> list[Case]:
        return [case for case, pace in zip(self.cases, self.paces, strict=True) if pace is None]

    def measure(self, say: Callable[[str], None], probe: Path | None = None) -> None:
        """Measures what is missing: here, or with `probe`, a directory that hosts share, in a short SLURM job.

        Raises:
            TrialError: none of it can be trained. ClusterError: the job was refused or gave no answer.
        """
        missing = self.missing
        if not missing:
            return
        say(f"measuring {len(missing)} kinds of trial at {self.place.name}, some seconds each")
        answers = self._ask_job(missing, probe) if probe else self._ask_here(missing)
        failed = [answer["error"] for answer in answers if "error" in answer]
        for case, answer in zip(missing, answers, strict=False):
            if "error" not in answer:
                self._cache.put(self._key(case), answer)
                self.paces[self.cases.index(case)] = Pace(**answer)
        if not any(self.paces):
            raise TrialError(f"nothing could be measured: {failed[0] if failed else 'no answer came'}")
        for text in failed:
            say(f"not measured: {text}")

    def pace(self, params: Mapping[str, Any]) -> Pace:
        """Of a configuration (fixed keys included): its own, else the nearest in model and size."""
        case = reduce(self._config.trial(params), self._config.has_table)
        known = [(other, pace) for other, pace in zip(self.cases, self.paces, strict=True) if pace]
        same = next((pace for other, pace in known if other == case), None)
        if same:
            return same
        return min(known, key=lambda item: _distance(case, item[0]))[1]

    def _ask_here(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """As many at once as trials will run at once: they share memory and caches."""
        lanes = [list(range(start, len(cases), self.place.at_once)) for start in range(self.place.at_once)]
        answers: dict[int, dict[str, Any]] = {}

        def run(places: list[int]) -> None:
            question = self._question([cases[place] for place in places])
            lines, end = self._ask_process(question, _START_S + _KIND_S * len(places))
            answers.update(zip(places, lines, strict=False))
            if len(lines) < len(places):  # the process has died of the next one
                answers[places[len(lines)]] = {"error": f"its process ended: {end}"}

        with ThreadPoolExecutor(self.place.at_once) as pool:
            list(pool.map(run, filter(None, lanes)))
        return [answers.get(place, {"error": "its process had ended before"}) for place in range(len(cases))]

    def _ask_process(self, question: str, deadline_s: float) -> tuple[list[dict[str, Any]], str]:
        """The answers of one process, and its last words."""
        command = [sys.executable, "-m", "hpo.trial.pace"]
        process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=self._environ())
        try:
            output, errors = process.communicate(question, timeout=deadline_s)
            words = errors.strip().splitlines() or [f"code {process.returncode}, without a word"]
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            words = [f"it took more than {deadline_s:.0f} s"]
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")], words[-1]

    def _ask_job(self, cases: Sequence[Case], folder: Path) -> list[dict[str, Any]]:
        """One GPU of one host for a few minutes, as the sweep's own job would be asked for."""
        request = self.place.request
        assert request is not None
        folder.mkdir(mode=0o700, parents=True)
        (folder / "question.json").write_text(self._question(cases), encoding="utf-8")
        gpus = min(1, request.gpus_per_node or 0)
        cpus = max(1, int(self.place.cpus))
        small = replace(request, nodes=1, gpus_per_node=gpus, cpus_per_task=cpus, mem=None, time=str(_PROBE_MINUTES),
                        dependency=None, begin=None, exclusive=None, job_name=None, comment=None)  # fmt: skip
        flags = ["--ntasks=1", *small.flags()]
        environ = self._environ()
        inside = " ".join(f"{key}={shlex.quote(environ[key])}" for key in ("SLURMTUNE_CPUS", "PYTHONPATH"))
        asked = f"{shlex.quote(sys.executable)} -m hpo.trial.pace <question.json >answer.part"
        line = f"{inside} {asked} && mv answer.part answer.json"
        command = ["--parsable", "--job-name=slurmtune-probe", f"--output={folder}/log.txt", *flags,
                   f"--chdir={folder}", f"--wrap={line}"]  # fmt: skip
        done = run_sbatch(command)
        if done.returncode:
            raise ClusterError(f"sbatch refused the probe: {' '.join(done.stderr.split())[:300]}")
        answers = _await_answer(folder, done.stdout.strip().partition(";")[0])
        shutil.rmtree(folder, ignore_errors=True)
        return answers

    def _question(self, cases: Sequence[Case]) -> str:
        config = self._config
        about = {"metric": config.metric, "mode": config.mode, "data": str(config.data), "budget_s": _BUDGET_S}
        return json.dumps({"cases": [{**case, "model.timm_image.pretrained": "false"} for case in cases], **about})

    def _environ(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        threads = str(max(1, int(self.place.cpus)))
        return {**os.environ, "PYTHONPATH": path, "SLURMTUNE_CPUS": threads, "HF_HUB_OFFLINE": "1"}

    def _key(self, case: Case) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in ("torch", "timm")}
        where = [self.place.name, *([] if self.place.request else [os.uname().nodename])]
        return {"case": case, "versions": versions, "data": self._config.fingerprint, "where": where}

    def _known(self, case: Case) -> Pace | None:
        value = self._cache.get(self._key(case))
        return Pace(**value) if value else None


def _await_answer(folder: Path, job: str) -> list[dict[str, Any]]:
    """Waits while the job is in the queue; a person who will not wait presses Ctrl-C and finds it measured later."""
    answer = folder / "answer.json"
    while not answer.exists():
        state = ask_slurm(["squeue", "-h", "-j", job, "-o", "%T"], 60)
        if not state.stdout.strip() and not answer.exists():
            time.sleep(_POLL_S)  # a shared file system takes a moment to show it
            if not answer.exists():
                raise ClusterError(f"the probe, job {job}, gave no answer; see {folder}/log.txt.")
        time.sleep(_POLL_S)
    return [json.loads(line) for line in answer.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def reduce(trial: TrialConfig, has_table: bool) -> Case:
    """What of a trial takes time."""
    values = trial.to_flat(has_table)
    case = {key: values[key] for key in _TIMELY if key in values}
    return {**case, "model.timm_image.drop_path_rate": 0.1 if case["model.timm_image.drop_path_rate"] else 0.0}


def _count_kinds(config: SweepConfig) -> tuple[dict[str, int], dict[str, Case]]:
    rng, counts, cases = random.Random(config.seed), {}, {}  # type: ignore[var-annotated]
    for _ in range(_SAMPLES if config.space.dimensions else 1):
        case = reduce(config.trial(config.space.sample(rng)), config.has_table)
        name = json.dumps(case, sort_keys=True)
        counts[name], cases[name] = counts.get(name, 0) + 1, case
    return counts, cases


def _distance(case: Case, other: Case) -> tuple[bool, float, int]:
    """The same model first, then the nearest size, then the most other keys alike."""
    apart = abs(float(case[_SIZE] or 0) - float(other[_SIZE] or 0))
    return case[_MODEL] != other[_MODEL], apart, sum(case[key] != other[key] for key in case)
