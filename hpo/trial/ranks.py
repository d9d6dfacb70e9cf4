"""The processes that train one trial together, its *ranks*: who one is among them, and what they tell each other.

A trial of one process is one rank; nothing here then does anything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from timm.utils import distribute_bn
from torch import Tensor, distributed, nn

from hpo.errors import TrialError

_LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "LOCAL_RANK")
_LONGEST = timedelta(hours=1)  # hpo.trial.group ends ranks that wait too long; this is for who has no group around


class RanksDiffer(TrialError):
    """A file system shows the ranks different files: NFS may show another node's of a minute ago. It passes."""

    kind = "storage"


@dataclass(frozen=True)
class Ranks:
    """Rank `rank` of `world`, who are on `nodes` nodes, as many on each; those of a node follow each other.

    meeting: at which they find each other, an empty file's path or what `open_meeting` gave.
    """

    rank: int = 0
    world: int = 1
    meeting: str = ""
    nodes: int = 1

    @property
    def many(self) -> bool:
        return self.world > 1

    @property
    def here(self) -> int:
        """Ranks on this node."""
        return self.world // self.nodes

    @property
    def local(self) -> int:
        """Its number among them, and that of its GPU."""
        return self.rank % self.here

    def join(self, on_gpu: bool) -> None:
        """Meets the others; waits for them. NCCL between GPUs, Gloo between CPUs, both over the interface that
        hpo.trial.rankprocesses has put into the environment: loopback, when all are on this node."""
        if not self.many:
            return
        if on_gpu:
            torch.cuda.set_device(self.local)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=_find_store(self.meeting) if self.nodes > 1 else distributed.FileStore(self.meeting, self.world),
            rank=self.rank,
            world_size=self.world,
            timeout=_LONGEST,
        )

    @contextlib.contextmanager
    def announced(self) -> Iterator[None]:
        """The environment in which Accelerate finds as many processes as there are: what srun, mpirun and torchrun
        export to each task of a step is hidden, since those are not our ranks."""
        own = {"RANK": self.rank, "LOCAL_RANK": self.local, "WORLD_SIZE": self.world, "LOCAL_WORLD_SIZE": self.here,
               "MASTER_ADDR": "met", "MASTER_PORT": "0"}  # fmt: skip  # demanded, although they have met already
        names = (*own, *_LAUNCHERS)
        hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
        if self.many:
            os.environ.update({name: str(value) for name, value in own.items()})
        try:
            yield
        finally:
            for name in own:
                os.environ.pop(name, None)
            os.environ.update(hidden)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all ranks' `value`, of any shape, on the device."""
        if self.many:
            distributed.all_reduce(value := value.clone())
            value /= self.world
        return value

    def average_statistics(self, *models: nn.Module) -> None:
        """Gives batch norms the mean of the statistics that each rank has seen, as timm's --dist-bn does."""
        if self.many:
            for model in models:
                distribute_bn(model, self.world, reduce=True)

    def gather(self, rows: np.ndarray | None) -> np.ndarray:
        """The rows of all ranks, in each; None where a rank has none."""
        parts: list[Any] = [rows]
        if self.many:
            parts = [None] * self.world
            distributed.all_gather_object(parts, rows)
        return np.concatenate([part for part in parts if part is not None])

    def require_equal(self, what: str, value: Any) -> None:
        """
        Raises:
            RanksDiffer: the ranks do not agree.
        """
        if not self.many:
            return
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise RanksDiffer(f"the {self.world} processes of the trial see different things ({what}: {values}).")


ALONE = Ranks()


def open_meeting(address: str) -> tuple[distributed.TCPStore, str]:
    """A store of torch's by which ranks of several nodes find each other, while it is kept, and where it is.

    It listens at IP `address` alone, where torch by itself takes all interfaces. It knows no password, so each meeting
    has a name of 128 random bits, without which nobody comes between its ranks by mistake.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind((address, 0))
        listener.listen(socket.SOMAXCONN)
        port = listener.getsockname()[1]
        handle = listener.detach()  # the store's from now on
    store = distributed.TCPStore(address, port, None, True, _LONGEST, False, master_listen_fd=handle)
    return store, f"{address} {port} {secrets.token_hex(16)}"


def _find_store(meeting: str) -> distributed.Store:
    address, port, name = meeting.split()
    return distributed.PrefixStore(name, distributed.TCPStore(address, int(port), None, False, _LONGEST, False))


def leave() -> None:
    """After the trial, so that the process can join others for the next."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
