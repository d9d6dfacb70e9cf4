"""What a model learns from labels, and by which numbers it is judged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpo.errors import DataError, TrialError

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet
    from hpo.trialconfig import TrialConfig
    from hpo.trialkeys import FocalConfig

RANKED = 100  # classes up to which all probabilities are kept for roc_auc: more would fill the memory


class Task(Protocol):
    """outputs: values that the model gives for an image. metrics: the names of what `judge` returns."""

    outputs: int

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def targets(self, labels: np.ndarray) -> Tensor:
        """Labels of a split as the loss takes them, on the host."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss of a batch, a scalar."""
        ...

    def compare(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What `judge` needs of a batch in evaluation, (B, columns), left on the device."""
        ...

    def judge(self, compared: np.ndarray) -> dict[str, float]:
        """The validation metrics from all rows of `compare`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of the outputs, JSON-ready."""
        ...


def create_task(train: ShardSet, config: TrialConfig) -> Task:
    """What `config` trains on the labels of `train`.

    Raises:
        TrialError: it asks for what only classes have, or for weights of other classes.
    """
    if train.task == "classification":
        return Classification(train, config)
    if config.optim.loss_func != "auto":
        raise TrialError(
            f"optim.loss_func is {config.optim.loss_func}, but these labels are numbers; they take auto, the squared "
            "error."
        )
    return Regression(train)


class Classification:
    """Cross entropy, or focal loss (Lin et al. 2017, arXiv 1708.02002) over all shares of a smoothed label.

    f1_macro: of the classes that occur or are predicted; roc_auc: of each class against the rest, in
    their mean, up to RANKED classes."""

    def __init__(self, train: ShardSet, config: TrialConfig) -> None:
        self.outputs = train.num_classes
        self._ranked = train.num_classes <= RANKED
        names = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_f1_macro")
        self.metrics: tuple[str, ...] = (*names, "val_roc_auc") if self._ranked else names
        self._names = list(train.class_names)
        self._smoothing = config.optim.label_smoothing
        self._focal = config.focal if config.optim.loss_func == "focal_loss" else None
        alpha = config.focal.alpha
        if self._focal and alpha and len(alpha) != self.outputs:
            raise TrialError(
                f"optim.focal_loss.alpha has {len(alpha)} weights, but the labels have {self.outputs} classes."
            )
        self._alpha = torch.tensor(alpha) if self._focal and alpha else None

    def targets(self, labels: np.ndarray) -> Tensor:
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.outputs:
            raise DataError(
                f"labels must be 0 to {self.outputs - 1}, found {labels.min()} to {labels.max()}; prepare anew."
            )
        return torch.from_numpy(np.asarray(labels, np.int64))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._focal:
            return self._focal_loss(outputs, targets, self._focal)
        return F.cross_entropy(outputs, targets, label_smoothing=self._smoothing)

    def _focal_loss(self, outputs: Tensor, targets: Tensor, focal: FocalConfig) -> Tensor:
        logs = F.log_softmax(outputs, 1)
        truth = F.one_hot(targets, self.outputs) * (1 - self._smoothing) + self._smoothing / self.outputs
        losses = truth * (1 - logs.exp()).clamp(min=0) ** focal.gamma * -logs
        if self._alpha is not None:
            self._alpha = self._alpha.to(losses)  # once: each copy to a GPU would wait for its work so far
            losses = losses * self._alpha
        return losses.sum(1).mean()

    def compare(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.cross_entropy(outputs, targets, reduction="none")
        columns = torch.stack([losses, outputs.argmax(1).float(), targets.float()], dim=1)
        return torch.cat([columns, outputs.softmax(1)], dim=1) if self._ranked else columns

    def judge(self, compared: np.ndarray) -> dict[str, float]:
        guesses, targets = compared[:, 1].astype(np.int64), compared[:, 2].astype(np.int64)
        right = guesses == targets
        truth, guessed, hits = (
            np.bincount(part, minlength=self.outputs) for part in (targets, guesses, targets[right])
        )
        present, either = truth > 0, truth + guessed > 0
        metrics = {
            "val_loss": float(compared[:, 0].astype(np.float64).mean()),
            "val_accuracy": float(right.mean()),
            "val_balanced_accuracy": float((hits[present] / truth[present]).mean()),
            "val_f1_macro": float((2 * hits[either] / (truth + guessed)[either]).mean()),
        }
        if self._ranked:
            metrics["val_roc_auc"] = float(
                np.mean([_auc(targets == c, compared[:, 3 + c]) for c in np.unique(targets)])
            )
        return metrics

    def describe(self) -> dict[str, Any]:
        return {"task": "classification", "class_names": self._names}


class Regression:
    """Mean squared error of labels standardised by the training split; rmse, mae and r2 in the labels' own units.

    Several label columns count alike: r2 is the mean of theirs.
    """

    metrics = ("val_loss", "val_rmse", "val_mae", "val_r2")

    def __init__(self, train: ShardSet) -> None:
        labels = _columns(train.labels)
        self.outputs = labels.shape[1]
        self._mean, std = labels.mean(0), labels.std(0)
        self._std = np.where(std > 0, std, 1.0)

    def targets(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(((_columns(labels) - self._mean) / self._std).astype(np.float32))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def compare(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([outputs, targets], dim=1)

    def judge(self, compared: np.ndarray) -> dict[str, float]:
        outputs, targets = np.split(compared.astype(np.float64), 2, axis=1)
        errors = outputs - targets
        spread = ((targets - targets.mean(0)) ** 2).sum(0)
        explained = 1 - (errors**2).sum(0) / np.where(spread > 0, spread, np.nan)
        own_units = errors * self._std
        return {
            "val_loss": float((errors**2).mean()),
            "val_rmse": float(np.sqrt((own_units**2).mean())),
            "val_mae": float(np.abs(own_units).mean()),
            "val_r2": float(explained.mean()),
        }

    def describe(self) -> dict[str, Any]:
        return {"task": "regression", "label_mean": self._mean.tolist(), "label_std": self._std.tolist()}


def _auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive is ranked above a negative, ties counting half; NaN where one of them is missing."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    count = int(positive.sum())
    pairs = count * (len(positive) - count)
    return (ranks[positive].sum() - count * (count + 1) / 2) / pairs if pairs else math.nan


def _columns(labels: np.ndarray) -> np.ndarray:
    return np.asarray(labels, np.float64).reshape(len(labels), -1)
