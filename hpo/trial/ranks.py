"""The processes that train one trial together, its *ranks*: who one is among them, and what they tell each other.

A trial of one process is one rank; nothing here then does anything.
"""

from __future__ import annotations

import contextlib
import os
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
_LONGEST_S = 3600  # hpo.trial.group ends ranks that wait too long; this is for who has no group around


@dataclass(frozen=True)
class Ranks:
    """Rank `rank` of `world` on this node; `meeting` is an empty file's path at which they find each other."""

    rank: int = 0
    world: int = 1
    meeting: str = ""

    @property
    def many(self) -> bool:
        return self.world > 1

    def join(self, on_gpu: bool) -> None:
        """Meets the others; waits for them. NCCL between GPUs, Gloo between CPUs, both over the loopback interface."""
        if not self.many:
            return
        if on_gpu:
            torch.cuda.set_device(self.rank)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=f"file://{self.meeting}",
            rank=self.rank,
            world_size=self.world,
            timeout=timedelta(seconds=_LONGEST_S),
        )

    @contextlib.contextmanager
    def announced(self) -> Iterator[None]:
        """The environment in which Accelerate finds as many processes as there are: what srun, mpirun and torchrun
        export to each task of a step is hidden, since those are not our ranks."""
        own = {"RANK": self.rank, "LOCAL_RANK": self.rank, "WORLD_SIZE": self.world, "LOCAL_WORLD_SIZE": self.world}
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
            TrialError: the ranks do not agree, as when a file system shows them different files.
        """
        if not self.many:
            return
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise TrialError(f"the {self.world} processes of the trial see different things ({what}: {values}).")


ALONE = Ranks()


def leave() -> None:
    """After the trial, so that the process can join others for the next."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
