"""The rank processes of one node: starts them, carries messages to them and back, and ends them.

hpo.trial.group decides what becomes of a trial, over those of one node or of several. Those of another node stand in
another process there, and somebody here who speaks like them passes everything on; who that is, the group is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from hpo.trial.threads import count_cpus

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "lo"
END_S = 5.0  # for a process to end by itself
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
    "SLURM_NPROCS",
    "SLURM_GTIDS",
)
_RANK_PREFIXES = (
    "PMI_",
    "PMIX_",
    "OMPI_",
    "MV2_",
    "MPI_",
    "SLURM_NTASKS",
    "SLURM_STEP_",
    "SLURM_TASKS_",
    "TORCHELASTIC_",
    "ACCELERATE_",
)

Message = dict[str, Any]  # a JSON object


class NodeRanks(Protocol):
    """The ranks of a node, `count` of them, numbered from 0 there."""

    count: int

    @property
    def alive(self) -> bool:
        """Whether all are there."""
        ...

    def start(self, first: int, world: int, log: Path) -> None:
        """Starts them, as ranks `first` and following of `world`. What they say goes to `log`, until they are told of a
        trial with another."""
        ...

    def send(self, messages: Sequence[Message]) -> None:
        """One for each."""
        ...

    def sources(self, ranks: Collection[int]) -> list[Connection]:
        """What is ready to be read when one of `ranks`, by its number on the node, has said something or has ended."""
        ...

    def receive(self, source: Connection) -> tuple[int, Message]:
        """Who has said what. What is said for one that has ended is {"failure": {"kind", "cause", "because"}}."""
        ...

    def find_loss(self) -> Message | None:
        """Asks whether the node is lost, which its ranks cannot say; the failure if it is."""
        ...

    def abort(self) -> None:
        """Ends them so that they leave their stacks in the log."""
        ...

    def end(self) -> None:
        """Ends them, whatever they do. May be repeated."""
        ...


def rank_environment(environ: Mapping[str, str], ranks: int, cpus: int, interface: str = LOOPBACK) -> dict[str, str]:
    """`environ` for one of `ranks` of a node: its share of `cpus`, the network interface by which it finds the others,
    and no other launcher's ranks. An interface that the person chose is kept where there is a choice."""
    own = {
        name: value
        for name, value in environ.items()
        if name not in _RANK_VARIABLES and not name.startswith(_RANK_PREFIXES)
    }
    threads = str(max(1, cpus // ranks))
    paths = os.pathsep.join([str(ROOT), *filter(None, [environ.get("PYTHONPATH")])])
    own |= {"OMP_NUM_THREADS": threads, "SLURMTUNE_CPUS": threads, "PYTHONPATH": paths}
    chosen = environ.get("GLOO_SOCKET_IFNAME", interface) if interface != LOOPBACK else LOOPBACK
    exactly = environ.get("NCCL_SOCKET_IFNAME", f"={interface}")  # without the sign NCCL takes eth10 for eth1
    return own | {"GLOO_SOCKET_IFNAME": chosen, "NCCL_SOCKET_IFNAME": exactly}


class RankProcesses:
    """Those of this node, with `cpus` for all of them."""

    def __init__(self, count: int, cpus: int | None = None, interface: str = LOOPBACK) -> None:
        self.count, self._cpus, self._interface = count, cpus or count_cpus(), interface
        self._first, self._world = 0, count
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def start(self, first: int, world: int, log: Path) -> None:
        self.end()
        self._first, self._world = first, world
        environ = rank_environment(os.environ, self.count, self._cpus, self._interface)
        with log.open("ab") as output:
            for _ in range(self.count):
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

    def send(self, messages: Sequence[Message]) -> None:
        for connection, message in zip(self._connections, messages, strict=True):
            with contextlib.suppress(OSError):  # it is gone, which its silence will show
                connection.send_bytes(json.dumps(message).encode())

    def sources(self, ranks: Collection[int]) -> list[Connection]:
        return [self._connections[rank] for rank in ranks]

    def receive(self, source: Connection) -> tuple[int, Message]:
        rank = self._connections.index(source)
        try:
            return rank, dict(json.loads(source.recv_bytes()))
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[rank].wait(END_S)
            return rank, {"failure": {"kind": "killed", "cause": self._describe_end(rank), "because": False}}

    def _describe_end(self, rank: int) -> str:
        code = self._processes[rank].poll()
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        where = f" on {socket.gethostname()}" if self._world > self.count else ""
        return f"process {self._first + rank} of {self._world}{where} ended {how}; the trial's log may have its stacks"

    def find_loss(self) -> Message | None:
        return None

    def abort(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGABRT)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)

    def end(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._connections, self._processes = [], []
