"""Measures a model before it is trained, and refuses one that is beyond a limit of the sweep's `constraints`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hpo.errors import TrialError
from hpo.measures import MEASURES
from hpo.trial.compute import Compute
from hpo.trial.loader import Batch

_WARM_UP, _PASSES = 3, 15


class InfeasibleError(TrialError):
    """The model is beyond a limit: it is not trained, and the searcher learns to keep away."""

    kind = "infeasible"


class Measurements:
    """The `values` of the measures that are `wanted`, none of them beyond `constraints`."""

    def __init__(self, wanted: Collection[str], constraints: Mapping[str, float]) -> None:
        self.values: dict[str, float] = {}
        self._wanted, self._constraints = wanted, constraints

    def take(self, name: str, measurement: Callable[[], float]) -> None:
        """Makes the measurement if anybody wants it.

        Raises:
            InfeasibleError: it is beyond its limit.
        """
        if name not in self._wanted:
            return
        value = self.values[name] = measurement()
        limit = self._constraints.get(name)
        if limit is not None and value > limit:
            raise InfeasibleError(f"{name} of {_write(value)} is over the {_write(limit)} of constraints")

    def restore(self, metrics: Mapping[str, Any]) -> None:
        """Takes up what an earlier process measured: a limit is not judged twice."""
        self.values |= {name: metrics[name] for name in MEASURES if name in self._wanted and name in metrics}


def _write(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def measure_latency(compute: Compute, batches: Iterator[Batch]) -> float:
    """Milliseconds, median of some passes, for the first image of `batches`. The device is waited for."""
    one = next(batches).part(0, 1)
    compute.judged.eval()
    spent = []
    for _ in range(_WARM_UP + _PASSES):
        began = time.perf_counter()
        compute.measure(one).cpu()
        spent.append(time.perf_counter() - began)
    return 1000 * statistics.median(spent[_WARM_UP:])


def measure_memory(compute: Compute, batches: Iterator[Batch]) -> float:
    """10**9 bytes of weights, their gradients, and all that autograd keeps of the first micro-batch of `batches`;
    without the optimiser's state and what a device needs in passing. The model is left as it was."""
    model = compute.model
    kept = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()  # all are alive until the graph is let go: no place comes twice
        return tensor

    compute.train()
    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = compute.first_loss(next(batches))
    del loss
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    return (sum(kept.values()) + gradients) / 1e9
