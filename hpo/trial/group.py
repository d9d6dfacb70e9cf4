"""A trial on several processes of this node: starts its ranks, has them train in step, and ends all when one fails.

It computes nothing itself, so that whatever becomes of a rank there is somebody left to say so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hpo.errors import TrialError
from hpo.trial.rank import config_to_json
from hpo.trial.threads import count_cpus
from hpo.trialconfig import TrialConfig

ROOT = Path(__file__).resolve().parents[2]
_GRACE_S = 5.0  # for the other ranks to say what they know, once one has failed
_END_S = 5.0  # for a process to end by itself
_OPEN_S = 900.0  # to import PyTorch from a slow file system
_CLOSE_S = 30.0  # to free a trial's memory
_SILENCE = 0.9  # of the timeout: before the watchdog of our own process ends us
_RANK_VARIABLES = (  # what launchers tell each task of a step: whoever trusts them takes it for a rank of ours
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_GTIDS",
)
_RANK_PREFIXES = (
    "PMI_",
    "PMIX_",
    "OMPI_",
    "MV2_",
    "MPI_",
    "SLURM_STEP_",
    "SLURM_TASKS_",
    "TORCHELASTIC_",
    "ACCELERATE_",
)

logger = logging.getLogger(__name__)


class RankFailure(TrialError):
    """What became of a rank, as one of the classes of hpo.failures."""

    def __init__(self, kind: str, cause: str, too_much: int | None = None) -> None:
        super().__init__(cause)
        self.kind, self.too_much = kind, too_much


def rank_environment(environ: Mapping[str, str], world: int, cpus: int) -> dict[str, str]:
    """`environ` for one rank: its share of `cpus`, the loopback interface, and no other launcher's ranks."""
    own = {
        name: value
        for name, value in environ.items()
        if name not in _RANK_VARIABLES and not name.startswith(_RANK_PREFIXES)
    }
    threads = str(max(1, cpus // world))
    paths = os.pathsep.join([str(ROOT), *filter(None, [environ.get("PYTHONPATH")])])
    own |= {"OMP_NUM_THREADS": threads, "SLURMTUNE_CPUS": threads, "PYTHONPATH": paths}
    return own | {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": environ.get("NCCL_SOCKET_IFNAME", "lo")}


class Group:
    """`world` rank processes, with `cpus` for all of them. They stay from trial to trial, until one fails or `end`."""

    def __init__(self, world: int, cpus: int | None = None) -> None:
        self.world, self._cpus = world, cpus or count_cpus()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []

    def start(self, log: Path) -> None:
        """Unless they are there. What they say goes to `log`, until they are told of a trial with another."""
        if self.alive:
            return
        self.end()
        environ = rank_environment(os.environ, self.world, self._cpus)
        with log.open("ab") as output:
            for _ in range(self.world):
                self._start_one(environ, output)

    def _start_one(self, environ: Mapping[str, str], output: Any) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "hpo.trial.rank", str(theirs.fileno())],
                env=dict(environ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        self._connections.append(Connection(ours.detach()))

    def call(
        self,
        messages: list[dict[str, Any]],
        silence_s: float,
        progress: Callable[[], None] = lambda: None,
        patient: bool = False,
    ) -> list[dict[str, Any]]:
        """Tells each rank its message; returns their answers when all have come. Otherwise all ranks are ended, some
        seconds after the first failure if that may be the consequence of another.

        `progress` is called when a rank says that it makes some; `patient`: every second, since imports say nothing.

        Raises:
            RankFailure: a rank failed or died, or none made progress for `silence_s` seconds.
        """
        for connection, message in zip(self._connections, messages, strict=True):
            with contextlib.suppress(OSError):  # it is gone, which its silence will show
                connection.send_bytes(json.dumps(message).encode())
        answers: dict[int, dict[str, Any]] = {}
        heard, ends = time.monotonic(), math.inf
        while len(answers) < self.world and time.monotonic() < ends:
            if time.monotonic() > heard + silence_s:
                raise self._hang(silence_s)
            if patient:
                progress()
            waiting: dict[Any, int] = {c: rank for rank, c in enumerate(self._connections) if rank not in answers}
            for ready in wait(list(waiting), timeout=1.0):
                answer = self._receive(waiting[ready])
                heard = time.monotonic()
                if "progress" in answer:
                    progress()
                    continue
                answers[waiting[ready]] = answer
                if "failure" in answer:
                    ends = min(ends, heard + (_GRACE_S if answer["failure"]["because"] else 0))
        if ends < math.inf:
            self.end()
            raise _verdict(answers)
        return [answers[rank] for rank in range(self.world)]

    def _receive(self, rank: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self._connections[rank].recv_bytes()))
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(_END_S)
            return {"failure": {"kind": "killed", "cause": self._describe_end(rank), "because": False}}

    def _describe_end(self, rank: int) -> str:
        code = self._processes[rank].poll()
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return f"process {rank} of {self.world} ended {how}; the trial's log.txt may have its stacks"

    def _hang(self, silence_s: float) -> RankFailure:
        for process in self._processes:
            process.send_signal(signal.SIGABRT)  # leaves its stacks in the log
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
        self.end()
        cause = f"none of {self.world} processes made progress for {silence_s:.0f} s; its log.txt has their stacks"
        return RankFailure("hang", cause)

    def end(self) -> None:
        """Ends all ranks, whatever they do. May be repeated."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._connections, self._processes = [], []

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)


class RankedTraining:
    """A Training, as hpo.trial.training has it, on the ranks of a group."""

    def __init__(
        self,
        group: Group,
        config: TrialConfig,
        data: Path,
        directory: Path,
        progress: Callable[[], None] = lambda: None,
        micro_batches: Path | None = None,
        hang_timeout: float = 0,
        deterministic: bool = False,
        compiled: Path | None = None,
    ) -> None:
        self._group, self._progress = group, progress
        self._silence = hang_timeout * _SILENCE or math.inf
        self._meeting = tempfile.TemporaryDirectory(prefix="slurmtune-ranks-")
        self._message: dict[str, Any] = {
            "do": "open",
            "config": config_to_json(config),
            "data": str(data),
            "directory": str(directory),
            "micro_batches": str(micro_batches) if micro_batches else None,
            "deterministic": deterministic,
            "compiled": str(compiled) if compiled else None,
        }
        self._opened = 0
        self._state = self._open()

    def _open(self, at_most: int | None = None) -> dict[str, Any]:
        """`at_most`: images at a time of a rank, where more are known not to fit."""
        self._opened += 1
        meeting, world = str(Path(self._meeting.name) / str(self._opened)), self._group.world
        messages = [
            {**self._message, "at_most": at_most, "ranks": {"rank": rank, "world": world, "meeting": meeting}}
            for rank in range(world)
        ]
        Path(self._message["directory"]).mkdir(parents=True, exist_ok=True)
        self._group.start(Path(self._message["directory"]) / "log.txt")
        return self._group.call(messages, max(_OPEN_S, self._silence), self._progress, patient=True)[0]

    @property
    def epoch(self) -> int:
        return int(self._state["epoch"])

    @property
    def metrics(self) -> dict[str, Any]:
        return {**self._state["metrics"], "ranks": self._group.world}

    @property
    def finished(self) -> str:
        return str(self._state["finished"])

    @property
    def best_epoch(self) -> int:
        return int(self._state["best_epoch"])

    @property
    def best_value(self) -> float:
        return float(self._state["best_value"])

    @property
    def device(self) -> str:
        return str(self._state["device"])

    def run_epoch(self) -> dict[str, Any]:
        """The next epoch's metrics. When a rank runs out of memory all begin anew from the last checkpoint, with half
        as many images at a time."""
        while True:
            try:
                messages = [{"do": "epoch"}] * self._group.world
                self._state = self._group.call(messages, self._silence, self._progress)[0]
                return self.metrics
            except RankFailure as failure:
                if not failure.too_much:
                    raise
                logger.warning("%s All %d processes begin again with half of it.", failure, self._group.world)
                self._state = self._open(failure.too_much // 2)

    def close(self) -> None:
        """The ranks stay, ready for the next trial."""
        if self._group.alive:
            with contextlib.suppress(RankFailure):
                self._group.call([{"do": "close"}] * self._group.world, _CLOSE_S)
        self._meeting.cleanup()


def _verdict(answers: Mapping[int, Mapping[str, Any]]) -> RankFailure:
    """The failure that the others follow from: a rank that lost its partner is not the cause."""
    failures = [answer["failure"] for answer in answers.values() if "failure" in answer]
    first = min(failures, key=lambda failure: failure["because"])
    return RankFailure(first["kind"], first["cause"], first.get("too_much"))
