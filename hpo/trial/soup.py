"""One model from the best epochs of a trial: their average where that validates no worse than the best one alone.

Greedy soup as by Wortsman et al. (2022, arXiv 2203.05482): best first, the next one stays in the average if the
average is then no worse. The statistics of batch norms are computed anew for each average, since those of different
weights do not average (Izmailov et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.data.read import open_split
from hpo.trial.augment import Augmentation
from hpo.trial.checkpoint import Checkpoint, Store
from hpo.trial.inference import TrainedModel
from hpo.trial.loader import Loader
from hpo.trial.middle import Middle
from hpo.trial.pixels import Delivery
from hpo.trial.policies import create_policies
from hpo.trial.task import create_task
from hpo.trialconfig import TrialConfig

METHODS = ("greedy_soup", "uniform_soup", "best")
_RECALIBRATED_ON = 4096  # training images that the statistics of batch norms are computed from


@dataclass(frozen=True)
class Soup:
    """`value`: of the metric on the validation split, `single` that of the best epoch alone, measured alike (None: not
    measured, as there was nothing to average). `epochs`: of those in the average. `meta`: of the best one."""

    weights: Mapping[str, Tensor]
    meta: dict[str, Any]
    epochs: tuple[int, ...]
    value: float | None = None
    single: float | None = None

    def save(self, path: Path) -> None:
        """The weights in timm's names, safetensors; on disk when this returns, under a temporary name until then."""
        temporary = path.with_name(f".{path.name}.new")
        save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, temporary)
        temporary.replace(path)


def ranked_checkpoints(directory: Path, mode: str) -> list[Checkpoint]:
    """The intact best epochs that the trial in `directory` left, best first in the direction `mode`."""
    folder = directory / "checkpoint"
    if not folder.is_dir():
        return []
    return [checkpoint for checkpoint in Store(folder, 1, mode).ranking() if checkpoint.is_intact()]


def average(checkpoints: Sequence[Checkpoint], data: Path, method: str = METHODS[0]) -> Soup:
    """The model of `checkpoints`, at least one, best first, of one trial on the shards in `data`."""
    weights = [checkpoint.load_weights() for checkpoint in checkpoints]
    meta = checkpoints[0].load_meta()
    epochs = [checkpoint.epoch for checkpoint in checkpoints]
    if method == "best" or len(weights) == 1:
        return Soup(weights[0], meta, (epochs[0],))
    kitchen = _Kitchen(meta, weights[0], data)
    try:
        single = kitchen.judge(weights[0])
        if method == "uniform_soup":
            mixed = kitchen.mix(weights)
            return Soup(mixed, meta, tuple(epochs), kitchen.judge(mixed), single)
        return _greedy(kitchen, weights, meta, epochs, single)
    finally:
        kitchen.close()


def _greedy(
    kitchen: _Kitchen, weights: Sequence[Mapping[str, Tensor]], meta: dict[str, Any], epochs: list[int], single: float
) -> Soup:
    taken, best, value = [0], weights[0], single
    for candidate in range(1, len(weights)):
        mixed = kitchen.mix([weights[i] for i in (*taken, candidate)])
        tried = kitchen.judge(mixed)
        if kitchen.no_worse(tried, value):
            taken, best, value = [*taken, candidate], mixed, tried
    return Soup(best, meta, tuple(epochs[i] for i in taken), value, single)


class _Kitchen:
    """The model and the data by which averages are mended and judged."""

    def __init__(self, meta: dict[str, Any], weights: Mapping[str, Tensor], data: Path) -> None:
        config = TrialConfig.from_flat(meta["config"])
        self._metric, self._sign = meta["metric"], 1 if meta["mode"] == "max" else -1
        self._trained = TrainedModel(meta, weights)
        train, validation = open_split(data, "train"), open_split(data, "validation")
        self._task = create_task(train, config)
        feed, env = self._trained.feed, config.env
        self._augmentation = Augmentation.of(config.model, meta["seed"], create_policies(config.model, feed))
        self._middle = Middle.of(config.model, feed.interpolation)
        delivery = Delivery(feed.size, on_device=False, pinned=False, interpolation=feed.interpolation)
        size = min(env.batch_size, env.per_gpu_batch_size or env.batch_size)
        self._train, self._validation = (
            Loader(
                shards, self._task.targets(shards.labels), delivery, size, env.num_workers, config.uses("timm_image")
            )
            for shards in (train, validation)
        )

    def mix(self, weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The average, with batch norms mended. Counters are taken from the first."""
        mixed = {name: _mean([w[name] for w in weights]) for name in weights[0]}
        norms = [
            module
            for name, module in self._trained.model.named_modules()
            if isinstance(module, _BatchNorm) and _differ(weights, f"{name}.running_mean")  # a frozen one stays
        ]
        if norms:
            self._trained.load(mixed)
            self._recalibrate(norms)
            mixed = {name: tensor.detach().cpu().clone() for name, tensor in self._trained.model.state_dict().items()}
        return mixed

    def judge(self, weights: Mapping[str, Tensor]) -> float:
        """The trial's metric on the validation split."""
        self._trained.load(weights)
        rows = [
            self._task.compare(self._trained.forward(batch.images, batch.rows), batch.targets.to(self._trained.device))
            for batch in self._validation.evaluation(self._middle)
        ]
        return self._task.judge(torch.cat(rows).float().cpu().numpy())[self._metric]

    def no_worse(self, value: float, than: float) -> bool:
        return math.isfinite(value) and (not math.isfinite(than) or self._sign * value >= self._sign * than)

    def close(self) -> None:
        self._train.close()
        self._validation.close()

    def _recalibrate(self, norms: Sequence[_BatchNorm]) -> None:
        """Means and variances over augmented training images, each batch counting alike; dropout stays off."""
        before: list[Any] = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        seen = 0
        for batch in self._train.training(self._augmentation.at(1)):
            self._trained.forward(batch.images, batch.rows)
            seen += len(batch)
            if seen >= _RECALIBRATED_ON:
                break
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
            nn.Module.train(norm, False)


def _differ(weights: Sequence[Mapping[str, Tensor]], name: str) -> bool:
    return name in weights[0] and any(not torch.equal(other[name], weights[0][name]) for other in weights[1:])


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)
