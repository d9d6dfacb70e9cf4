"""One update and one measured batch, in as many pieces as the device's memory asks for."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from hpo.errors import TrialError
from hpo.trial.loader import Batch
from hpo.trial.mixing import Mixing
from hpo.trial.model import Input, is_convolutional
from hpo.trial.optimizer import set_learning_rate
from hpo.trial.render import Normaliser, render_batch
from hpo.trial.task import Task

T = TypeVar("T")

logger = logging.getLogger(__name__)


class OutOfMemory(TrialError):
    """Not even one image at a time fits on the device."""

    kind = "oom"


class Compute:
    """Model, optimiser and device of a trial.

    `micro_batch` images go through the model at a time; gradients add up over a batch, so that its size is what was
    asked for. When the device runs out of memory the micro-batch is halved, for good, and the piece of work done again.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        feed: Input,
        micro_batch: int,
        clip: float,
    ) -> None:
        self.micro_batch = micro_batch
        self._accelerator, self._task, self._clip, self._size = accelerator, task, clip, feed.size
        layout = torch.channels_last if is_convolutional(model) else torch.contiguous_format
        self._normalise = Normaliser(feed, accelerator.device, layout)
        self.model, self.optimizer = accelerator.prepare(model.to(memory_format=layout), optimizer)
        self.scaler = accelerator.scaler  # of fp16, else None
        self._parameters = list(self.model.parameters())
        self._second_order = bool(getattr(optimizer, "is_second_order", False))
        if self._second_order:  # torch's fused attention has no second derivative
            for module in model.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = False  # type: ignore[assignment]

    def update(self, batch: Batch, rate: float, mixing: Mixing | None = None) -> Tensor:
        """One step of the optimiser on `batch`; its mean loss, a scalar on the device that nobody has waited for."""
        set_learning_rate(self.optimizer, rate)
        loss = self._in_memory(lambda micro: self._accumulate(batch, micro, mixing))
        if self._clip:
            self._accelerator.clip_grad_norm_(self._parameters, self._clip)
        self.optimizer.step()
        return loss

    def _accumulate(self, batch: Batch, micro: int, mixing: Mixing | None) -> Tensor:
        """The gradient of the batch's mean loss, piece by piece."""
        self.optimizer.zero_grad()  # of the update before, or of a try that failed
        total = torch.zeros((), device=self._accelerator.device)
        for first in range(0, len(batch), micro):
            part = batch.part(first, first + micro)
            loss = self._loss(part, batch.opposite(first, first + micro), mixing) * (len(part) / len(batch))
            self._accelerator.backward(loss, create_graph=self._second_order)
            total += loss.detach()
        return total

    def _loss(self, part: Batch, opposite: Batch, mixing: Mixing | None) -> Tensor:
        inputs, targets = self._feed(part)
        if mixing is None:
            return self._task.loss(self.model(*inputs), targets)
        (partners,), other_targets = self._feed(opposite)
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
        return self._task.compare(self.model(*inputs), targets)

    def _feed(self, part: Batch) -> tuple[tuple[Any, ...], Tensor]:
        """What the model takes: images, and of a table the rows; targets. On the device."""
        device = self._accelerator.device
        images = part.images.to(device, non_blocking=True)
        pixels = render_batch(images, part.crops, self._size) if part.crops else images.permute(0, 3, 1, 2)
        normalised = self._normalise(pixels)
        inputs = (normalised, part.rows.to(device)) if part.rows else (normalised,)
        return inputs, part.targets.to(device, non_blocking=True)

    def _in_memory(self, work: Callable[[int], T]) -> T:
        while True:
            try:
                return work(self.micro_batch)
            except torch.OutOfMemoryError as error:
                reason = str(error).splitlines()[0]
            # Outside the handler, where no traceback holds the tensors that are to be freed.
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        if self.micro_batch == 1:
            raise OutOfMemory(
                f"not even one image of {self._size} pixels fits into the memory of {self._accelerator.device} "
                f"({reason}); choose a smaller model or image size, or give the trial a larger GPU."
            )
        self.micro_batch = max(1, self.micro_batch // 2)
        logger.warning("out of memory (%s): going on with %d images at a time", reason, self.micro_batch)
        self.optimizer.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
