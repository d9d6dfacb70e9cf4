"""One update and one measured batch, in as many pieces as the device's memory asks for."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from hpo.errors import TrialError
from hpo.failures import is_out_of_memory
from hpo.trial.compilation import COMPILE_ERRORS, Compilation
from hpo.trial.erasing import Erasing
from hpo.trial.freezing import frozen_norms
from hpo.trial.loader import Batch
from hpo.trial.lowrank import load_merged, merged_weights, unmerged_weights
from hpo.trial.mixing import Mixing
from hpo.trial.model import Input, is_convolutional
from hpo.trial.optimizer import clip_gradients, set_learning_rate
from hpo.trial.ranks import ALONE, Ranks
from hpo.trial.render import Normaliser, render_batch
from hpo.trial.task import Task
from hpo.trialkeys import OptimConfig

T = TypeVar("T")

logger = logging.getLogger(__name__)


class OutOfMemory(TrialError):
    """Not even one image at a time fits on the device."""

    kind = "oom"


class RanksNeedMemory(TrialError):
    """One of several ranks ran out of memory; `micro_batch` did not fit. All of them are to begin again with less."""

    kind = "oom"

    def __init__(self, micro_batch: int, reason: str) -> None:
        super().__init__(f"{micro_batch} images at a time do not fit into the memory of a rank ({reason}).")
        self.micro_batch = micro_batch


@dataclass(frozen=True)
class Step:
    """What one update is told, beside its batch. `number` counts updates from 0; `images` are those of all ranks, 0: of
    this one."""

    rate: float
    number: int = 0
    mixing: Mixing | None = None
    erasing: Erasing | None = None
    images: int = 0


def cut_evenly(count: int, most: int) -> list[tuple[int, int]]:
    """First and last of the fewest pieces of at most `most` of `count`, alike but for one: batch norms take each piece
    for as much as any other, and cannot do with a single small image.

    >>> cut_evenly(25, 8)
    [(0, 6), (6, 12), (12, 18), (18, 25)]
    """
    pieces = -(-count // most)
    ends = [count * place // pieces for place in range(pieces + 1)]
    return list(itertools.pairwise(ends))


class Compute:
    """Model, optimiser and device of a trial. `judged` is what is evaluated and kept: the model, or where
    `optim.ema_decay` is on, the moving average of its weights.

    `micro_batch` images go through the model at a time; gradients add up over a batch, so that its size is what was
    asked for. When the device runs out of memory the micro-batch is halved, for good, and the piece of work done again.

    Of several ranks each has its part of a batch, and the gradients are summed over ranks with the last piece. A rank
    that runs out of memory cannot do a piece again by itself, for the others are in the middle of that sum.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        feed: Input,
        micro_batch: int,
        config: OptimConfig,
        ranks: Ranks = ALONE,
        compiled: bool = False,
    ) -> None:
        self.micro_batch, self._ranks = micro_batch, ranks
        self._accelerator, self._task, self._config, self._input = accelerator, task, config, feed
        layout = torch.channels_last if is_convolutional(model) else torch.contiguous_format
        self._normalise = Normaliser(feed, accelerator.device, layout)
        model = model.to(memory_format=layout)
        self._average = ModelEmaV3(model, config.ema_decay, use_warmup=config.ema_warmup) if config.ema_decay else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # Accelerate has no newer word
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self._own = model  # without what sums gradients over ranks
        self.judged = model
        if self._average:
            self.judged = accelerator.prepare_model(self._average.module, evaluation_mode=True)
        self._still = frozen_norms(model)
        self.scaler = accelerator.scaler  # of fp16, else None
        self._parameters = list(self.model.parameters())
        self._second_order = bool(getattr(optimizer, "is_second_order", False))
        if self._second_order and ranks.many:
            raise TrialError(
                f"{type(optimizer).__name__} needs second derivatives, which are not summed over several processes; "
                "choose another optim.optim_type, or give the trial one process."
            )
        if self._second_order:  # torch's fused attention has no second derivative
            for module in model.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = False  # type: ignore[assignment]
        # Not of DDP's wrapper: gradients are summed while the compiled backward pass hands them out.
        self._compilation = Compilation((model, self.judged) if compiled else (), accelerator.device)
        if self._second_order:
            self._compilation.give_up("it has no second derivatives when compiled")

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def resident_bytes(self) -> int:
        """What weights, averages and the optimiser's state take between two updates."""
        models = [self._own, *([self._average.module] if self._average else [])]
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        tensors += [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    def rest(self) -> None:
        """Frees what an update leaves: gradients, and memory that torch keeps for the next."""
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Frees what was compiled."""
        self._compilation.close()

    def weights(self) -> dict[str, Tensor]:
        """Those that are judged, in timm's names."""
        return merged_weights(self.judged)

    def state(self) -> dict[str, Any]:
        """What `weights` do not tell, to go on from."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "adapters": unmerged_weights(self.judged),
            "model": self._own.state_dict() if self._average else None,
        }

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Puts back what `weights` and `state` gave.

        Raises:
            RuntimeError, ValueError, KeyError: they are of another model or optimiser.
        """
        load_merged(self.judged, weights, state["adapters"])
        if self._average:
            self._own.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def train(self) -> None:
        """Training mode, but for batch norms whose features are frozen."""
        self.model.train()
        for norm in self._still:
            norm.eval()

    def update(self, batch: Batch, step: Step) -> Tensor:
        """One step of the optimiser on `batch`; its mean loss, a scalar on the device that nobody has waited for."""
        set_learning_rate(self.optimizer, step.rate)
        loss = self._in_memory(lambda micro: self._accumulate(batch, micro, step))
        clip_gradients(self._accelerator, self._parameters, self._config)
        self.optimizer.step()
        if self._average:
            self._average.update(self._own, step.number + 1)
        return loss

    def first_loss(self, batch: Batch) -> Tensor:
        """The training loss of the first micro-batch of `batch`, with its graph; in train mode, so it has a part in the
        statistics of batch norms."""
        micro = min(self.micro_batch, len(batch))
        return self._loss(batch.part(0, micro), batch.opposite(0, micro), Step(rate=0.0))

    def settle(self) -> None:
        """Makes the ranks' models the same again after an epoch: each has seen other images' statistics."""
        self._ranks.average_statistics(self._own, *([self._average.module] if self._average else []))

    def _accumulate(self, batch: Batch, micro: int, step: Step) -> Tensor:
        """The gradient of the batch's mean loss, piece by piece; the ranks' mean of what is returned is that loss."""
        self.optimizer.zero_grad()  # of the update before, or of a try that failed
        total = torch.zeros((), device=self._accelerator.device)
        for first, last in cut_evenly(len(batch), micro):
            part = batch.part(first, last)
            share = len(part) * self._ranks.world / (step.images or len(batch))
            with self._apart(last < len(batch)):
                loss = self._loss(part, batch.opposite(first, last), step) * share
                self._accelerator.backward(loss, create_graph=self._second_order)
            total += loss.detach()
        return total

    def _apart(self, more: bool) -> contextlib.AbstractContextManager[None]:
        """While `more` pieces are to come gradients stay in their rank."""
        return self._accelerator.no_sync(self.model) if more and self._ranks.many else contextlib.nullcontext()

    def _loss(self, part: Batch, opposite: Batch, step: Step) -> Tensor:
        inputs, targets = self._feed(part, step.erasing)
        mixing = step.mixing
        if mixing is None:
            return self._task.loss(self.model(*inputs), targets)
        (partners,), other_targets = self._feed(opposite, step.erasing)
        outputs = self.model(mixing.apply(inputs[0], partners.flip(0)))
        other_targets = other_targets.flip(0)
        own, other = self._task.loss(outputs, targets), self._task.loss(outputs, other_targets)
        return own * mixing.share + other * (1 - mixing.share)

    def measure(self, batch: Batch) -> Tensor:
        """The task's comparison of outputs and targets, (B, columns), on the device. Leaves no gradients."""

        def measured(micro: int) -> Tensor:
            parts = [batch.part(first, first + micro) for first in range(0, len(batch), micro)]
            return torch.cat([self._compare(part) for part in parts])

        with torch.inference_mode():
            return self._in_memory(measured)

    def _compare(self, part: Batch) -> Tensor:
        inputs, targets = self._feed(part)
        return self._task.compare(self.judged(*inputs), targets)

    def _feed(self, part: Batch, erasing: Erasing | None = None) -> tuple[tuple[Any, ...], Tensor]:
        """What the model takes: images, and of a table the rows; targets. On the device."""
        device, feed = self._accelerator.device, self._input
        images = part.images.to(device, non_blocking=True)
        if part.crops:
            pixels = render_batch(images, part.crops, feed.size, feed.interpolation)
        else:
            pixels = images.permute(0, 3, 1, 2)
        normalised = self._normalise(pixels)
        if erasing:
            erasing.apply(normalised, part.samples)
        inputs = (normalised, part.rows.to(device)) if part.rows else (normalised,)
        return inputs, part.targets.to(device, non_blocking=True)

    def _in_memory(self, work: Callable[[int], T]) -> T:
        while True:
            try:
                return work(self.micro_batch)
            except COMPILE_ERRORS as error:
                reason, then = str(error).strip().splitlines()[0], self._compilation.give_up
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason, then = str(error).splitlines()[0], self._halve
            # Outside the handler, where no traceback holds the tensors that are to be freed.
            then(reason)

    def _halve(self, reason: str) -> None:
        if self.micro_batch == 1:
            raise OutOfMemory(
                f"not even one image of {self._input.size} pixels fits into the memory of {self._accelerator.device} "
                f"({reason}); choose a smaller model or image size, or give the trial a larger GPU."
            )
        if self._ranks.many:
            raise RanksNeedMemory(self.micro_batch, reason)
        self.micro_batch = max(1, self.micro_batch // 2)
        logger.warning("out of memory (%s): going on with %d images at a time", reason, self.micro_batch)
        self.optimizer.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
