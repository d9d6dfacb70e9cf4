"""One trial, driven epoch by epoch: by hpo.trial.loop, by a Ray Tune trainable, by anybody."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from hpo.data.decoded import decode_once
from hpo.data.nodecopy import local_copy
from hpo.data.read import open_split
from hpo.data.storage import is_shared
from hpo.errors import TrialError, nearest
from hpo.microbatches import remembered_micro_batch
from hpo.trial.augment import Augmentation
from hpo.trial.carry import carried
from hpo.trial.checkpoint import Checkpoint
from hpo.trial.compilecache import CompileCache
from hpo.trial.compute import Compute, Step
from hpo.trial.device import (
    close_accelerator,
    name_device,
    open_accelerator,
    resume_accelerator,
    set_threads,
    suspend_accelerator,
)
from hpo.trial.erasing import Erasing
from hpo.trial.freezing import freeze
from hpo.trial.fusion import build_model
from hpo.trial.loader import Loader
from hpo.trial.logfile import close_log, open_log
from hpo.trial.measures import Measurements, count_parameters, measure_latency, measure_memory
from hpo.trial.middle import Middle
from hpo.trial.mixing import draw_mixing
from hpo.trial.model import choose_image_size
from hpo.trial.optimizer import create_optimizer, learning_rate
from hpo.trial.pixels import Delivery
from hpo.trial.policies import create_policies
from hpo.trial.randomness import derive
from hpo.trial.ranks import ALONE, Ranks
from hpo.trial.saves import Progress, Saves
from hpo.trial.task import Task, create_task
from hpo.trialconfig import TrialConfig

if TYPE_CHECKING:
    from hpo.data.decoded import Decoded
    from hpo.data.shards import ShardSet

logger = logging.getLogger(__name__)


class Training:
    """The training of `config` on the shards in `data`, with log and checkpoints in `directory`.

    It goes on by itself from the newest intact checkpoint there. `epoch` is the number of completed epochs, `metrics`
    what the last of them gave, also when that was in an earlier process. A process has one open Training at a time,
    since Accelerate's precision is global; `close` it before the next. `progress` is called after every batch.

    Raises:
        AcceleratorError, WeightsError, TrialError, DataError: it cannot be trained as configured.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: Path,
        directory: Path,
        progress: Callable[[], None] = lambda: None,
        micro_batches: Path | None = None,
        ranks: Ranks = ALONE,
        at_most: int | None = None,
        compiled: Path | None = None,
    ) -> None:
        """
        Args:
            micro_batches: where the sweep remembers what fitted into memory, see hpo.microbatches.
            ranks: of whom this process is one; all of them call the same, and rank 0 writes.
            at_most: images at a time, where more are known not to fit.
            compiled: where the sweep keeps what torch.compile made, see hpo.trial.compilecache.
        """
        self._micro_batches, self.ranks, self._at_most = micro_batches, ranks, at_most or config.env.batch_size
        self.config, self.directory, self._on_progress = config, directory, progress
        self.max_epochs = config.optim.max_epochs
        self._published, self._compiled = compiled, None  # type: Path | None, CompileCache | None
        self.metrics: dict[str, Any] = {}
        self._diverged = False
        self._suspended: list[dict[str, Any]] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:  # closes what is open already, should the rest not open
            if ranks.rank == 0:
                self._open_log(opened)
            self._open(opened, data)
            self._opened = opened.pop_all()

    @property
    def epoch(self) -> int:
        return self._progress.epoch

    @property
    def best_epoch(self) -> int:
        """The epoch with the best value so far, 0 before there is one."""
        return self._progress.best_epoch

    @property
    def best_value(self) -> float:
        return self._progress.best_value

    @property
    def finished(self) -> str:
        """Why there is nothing more to train, or ''."""
        if self._diverged:
            return "diverged: train_loss is not finite"
        if self.epoch >= self.max_epochs:
            return "max_epochs"
        patience = self.config.optim.patience
        if self.epoch - self._progress.best_epoch >= patience:
            return f"patience: no better {self.config.metric} for {patience} epochs"
        return ""

    def run_epoch(self) -> dict[str, Any]:
        """Trains one epoch, evaluates, writes checkpoints; returns metrics and the checkpoint's path below `directory`.

        When the loss is no longer finite nothing is evaluated or written: the validation metrics are NaN and
        `checkpoint` names the last good one, '' if there is none. A finished training gives its last metrics again.
        """
        if self.finished:
            return dict(self.metrics)
        started = time.perf_counter()
        epoch = self.epoch + 1
        rank = [self.ranks.rank] if self.ranks.rank else []
        torch.manual_seed(derive(self.config.seed, epoch, 3, *rank))  # dropout and stochastic depth, on every device
        loss, images = self._train(epoch)
        self._compute.settle()
        per_second = images / (time.perf_counter() - started)
        self._diverged = not math.isfinite(loss)
        metrics: dict[str, Any] = {"epoch": epoch, "train_loss": loss, **self._evaluate()}
        metrics |= {"lr": self._rate(epoch * len(self._loader) - 1), "micro_batch": self._compute.micro_batch}
        timing = {"seconds": time.perf_counter() - started, "images_per_second": per_second, **self._measured.values}
        self._progress.epoch = epoch
        if not self._diverged:
            self._complete(metrics, timing)
        metrics |= timing
        self.metrics = {**metrics, "checkpoint": self._checkpoint}
        shown = [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float)]
        logger.info("epoch %d: %s", epoch, ", ".join(shown))
        return dict(self.metrics)

    @property
    def resident_bytes(self) -> int:
        """What the training takes while it is suspended, in the memory of its device."""
        return self._compute.resident_bytes

    @property
    def is_newest(self) -> bool:
        """Whether no other process has taken the trial further than this one."""
        return self._saves.newest_epoch() == self.epoch

    def suspend(self) -> None:
        """Lets the next trial train in this process; `resume` goes on from memory, exactly. For trials of one rank."""
        self._compute.rest()
        for loader in (self._loader, self._validation):
            loader.rest()
        close_log(self._log)
        self._suspended = suspend_accelerator()

    def resume(self, progress: Callable[[], None] = lambda: None) -> None:
        """After `suspend`, with no other training open. `progress` as of old."""
        resume_accelerator(self._suspended or [])
        self._suspended, self._on_progress = None, progress
        set_threads()
        self._open_log(self._opened)
        logger.info("going on after epoch %d, from memory", self.epoch)

    def close(self) -> None:
        """Frees model, device memory and threads, so that this process can run the next trial. May be repeated."""
        if "_compute" in self.__dict__:
            self._compute.close()
        for name in ("_compute", "_loader", "_validation"):
            self.__dict__.pop(name, None)
        self._opened.close()
        gc.collect()  # Accelerate ties a model to itself, so that counting references does not free it
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, opened: contextlib.ExitStack, data: Path) -> None:
        """Everything but the directory and the log. What needs closing goes onto `opened`."""
        config = self.config
        set_threads()
        accelerator = open_accelerator(config.env, self.ranks)
        self.device = name_device(accelerator)
        opened.callback(self._close_accelerator)
        if config.env.compile:
            self._compiled = CompileCache(self._published, self.device)
        data = local_copy(data)
        train, validation = open_split(data, "train"), open_split(data, "validation")
        if self.ranks.world > (images := min(config.env.batch_size, len(train))):
            raise TrialError(
                f"a batch of {images} leaves some of {self.ranks.world} processes without an image; raise "
                "env.batch_size, or lower num_processes."
            )
        self._columns = train.columns
        self._task = create_task(train, config)
        _require_metric(config.metric, self._task)
        if config.mixup.turn_on and train.columns:
            raise TrialError("data.mixup.turn_on is true, but the rows of a table cannot be mixed; set it false.")
        if config.mixup.turn_on and train.task != "classification":
            raise TrialError(
                "data.mixup.turn_on is true, but it mixes classes and these labels are numbers; set it false."
            )
        self._saves = Saves(self.directory, config, train, self._task)
        resumed = self._saves.newest()
        self.ranks.require_equal("the newest checkpoint", resumed.epoch if resumed else 0)
        self._measured = Measurements(
            {*config.constraints, *config.objectives}, config.constraints if resumed is None else {}
        )
        self._compute = self._build(accelerator, choose_image_size(config.model, train), resumed is None)
        policies = create_policies(config.model, self._feed)
        self._augmentation = Augmentation.of(config.model, config.seed, policies)
        self._middle = Middle.of(config.model, self._feed.interpolation)
        on_gpu = accelerator.device.type == "cuda"
        on_device = on_gpu and not policies  # they work on the host
        delivery = Delivery(self._feed.size, on_device, on_gpu, rank=self.ranks.rank,
                            world=self.ranks.world, interpolation=self._feed.interpolation)  # fmt: skip
        seen = [decode_once(split) if config.uses("timm_image") else None for split in (train, validation)]
        blocks = self._mixes_blocks(data) and not seen[0]
        self._loader = self._open_loader(opened, train, delivery, seen[0], blocks)
        self._validation = self._open_loader(opened, validation, delivery, seen[1])
        self._progress, self._checkpoint = Progress(micro_batch=self._compute.micro_batch, blocks=blocks), ""
        if resumed:
            self._restore(resumed)
        else:
            self._measured.take(
                "latency_ms", lambda: measure_latency(self._compute, self._validation.evaluation(self._middle))
            )
            self._measured.take(
                "memory_gb", lambda: measure_memory(self._compute, self._loader.training(self._augmentation.at(1)))
            )
        where = f"{accelerator.device} in {accelerator.mixed_precision}"
        start = f"going on after epoch {self.epoch}" if resumed else "from the start"
        work = f"{len(self._loader)} x {config.env.batch_size} images an epoch"
        process = f"process {os.getpid()}"
        logger.info("%s on %s, %s, %s, %s", config.model.checkpoint_name, where, work, start, process)

    def _open_log(self, opened: contextlib.ExitStack) -> None:
        self._log = open_log(self.directory / "log.txt")
        opened.callback(close_log, self._log)

    def _close_accelerator(self) -> None:
        if self._suspended is None:  # else it is another trial's by now
            close_accelerator()

    def _build(self, accelerator: Accelerator, size: int, with_weights: bool) -> Compute:
        config = self.config
        torch.manual_seed(derive(config.seed, 0))  # the initial weights
        model, self._feed = build_model(config, self._columns, self._task.outputs, size, with_weights)
        self._measured.take("parameters", lambda: count_parameters(model))
        freeze(model, config)
        optimizer = create_optimizer(model, config.optim)
        micro = remembered_micro_batch(self._micro_batches, config, self.device, self.ranks.world)
        micro = min(micro, self._at_most)
        what = (model, optimizer, self._task, self._feed, micro, config.optim, self.ranks)
        return Compute(accelerator, *what, compiled=config.env.compile)

    def _mixes_blocks(self, place: Path) -> bool:
        """Across a network random reads are slow. Ranks need one order, and a deterministic sweep one on every node."""
        choice = self.config.env.shuffle
        if choice == "auto" and not torch.are_deterministic_algorithms_enabled():
            return bool(self.ranks.gather(np.array([is_shared(place)])).any())
        return choice == "blocks"

    def _open_loader(
        self,
        opened: contextlib.ExitStack,
        shards: ShardSet,
        delivery: Delivery,
        decoded: Decoded | None,
        blocks: bool = False,
    ) -> Loader:
        env = self.config.env
        sizes = (env.batch_size, env.num_workers)
        uses = self.config.uses("timm_image")
        targets = self._task.targets(shards.labels)
        loader = Loader(shards, targets, delivery, *sizes, with_images=uses, decoded=decoded, blocks=blocks)
        opened.callback(loader.close)
        return loader

    def _train(self, epoch: int) -> tuple[float, int]:
        """Mean training loss and number of images. Waits for the device once, at the end."""
        self._compute.train()
        losses, images, config = [], 0, self.config
        erasing = Erasing(config.erasing, config.seed, epoch) if config.erasing.prob else None
        update, every = (epoch - 1) * len(self._loader), self._loader.images_an_update
        for batch in carried(self._loader.training(self._augmentation.at(epoch)), self._compute.device):
            mixing = draw_mixing(config.mixup, self._feed.size, config.seed, epoch, update)
            step = Step(self._rate(update), update, mixing, erasing, every)
            losses.append(self._compute.update(batch, step))
            images += every
            update += 1
            self._on_progress()
        return self.ranks.mean(torch.stack(losses).mean()).item(), images

    def _evaluate(self) -> dict[str, float]:
        if self._diverged:
            return dict.fromkeys(self._task.metrics, math.nan)
        self._compute.judged.eval()
        rows = []
        for batch in carried(self._validation.evaluation(self._middle), self._compute.device):
            rows.append(self._compute.measure(batch))
            self._on_progress()
        return self._task.judge(self.ranks.gather(torch.cat(rows).float().cpu().numpy() if rows else None))

    def _rate(self, update: int) -> float:
        return learning_rate(self.config.optim, update, self.max_epochs * len(self._loader))

    def _complete(self, metrics: dict[str, Any], timing: dict[str, float]) -> None:
        """Books a good epoch: the best so far, and the checkpoints."""
        self._progress.book(self.epoch, metrics[self.config.metric], self.config.mode)
        self._progress.micro_batch = self._compute.micro_batch
        if self.ranks.rank == 0:
            self._checkpoint = self._saves.save(self._progress, metrics, timing, self._compute, self._feed)
            if self._compiled:
                self._compiled.publish()

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from `checkpoint`: weights, averages, optimiser, scaler and counters."""
        self._progress, self.metrics = self._saves.restore(checkpoint, self._compute)
        self._loader.mix_blocks(self._progress.blocks)  # as it began, wherever it goes on
        self._compute.micro_batch = min(self._progress.micro_batch, self._at_most)  # its own, which fitted
        self._checkpoint = self.metrics["checkpoint"]
        self._measured.restore(self.metrics)


def _require_metric(metric: str, task: Task) -> None:
    known = ("train_loss", *task.metrics)
    if metric not in known:
        raise TrialError(f"metric {metric!r} is not reported; choose of {', '.join(known)}.{nearest(metric, known)}")
