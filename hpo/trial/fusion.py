"""A timm model and a table as one model: late fusion.

Each image column goes through the one backbone, numbers and categories each through a small network of their own; what
comes out is normalised, put side by side and joined by another small network. A missing image is a learned vector, a
missing number its column's mean and a flag, a missing or unknown category an entry of its own; all three are learned
where the training data have them, or where `data.modality_dropout` makes them up.

Means, deviations and rare categories are buffers: the model takes numbers and codes as the shards hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpo.data.columns import FIRST, MISSING, UNKNOWN, Categorical, Columns, Numerical
from hpo.errors import TrialError
from hpo.trial.model import Input, create_backbone, create_model
from hpo.trial.rows import Rows
from hpo.trialconfig import NumericalConfig, TrialConfig

_FARTHEST = 10.0  # deviations from the mean that a number can lie away: a slip of a decimal point moves no more
_WIDEST = 50  # values by which a category is described at most
_STILL = 0.02  # deviation of a category's first values: a rare one stays near the unknown, which starts at 0

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class FusedModel(nn.Module):
    """`image`: the backbone, its weights in timm's names below `image.`; None where no image is looked at."""

    def __init__(
        self, image: nn.Module | None, width: int, columns: Columns, config: TrialConfig, outputs: int
    ) -> None:
        super().__init__()
        self._dropped = config.modalities.modality_dropout
        views = len(columns.images) if image else 0
        self.image = image
        widths = [width] * views
        if image:
            self.missing = nn.Embedding(views, width)  # what stands for an image that is not there
            nn.init.zeros_(self.missing.weight)
            self.image_norm = nn.LayerNorm(width)
        self.numerical_mlp = _numerical(columns, config)
        self.categorical_mlp = _categorical(columns, config)
        widths += [branch.width for branch in (self.numerical_mlp, self.categorical_mlp) if branch]
        fusion = config.fusion
        sizes = [sum(widths), *fusion.hidden_sizes]
        self.fusion_mlp = _mlp(sizes, fusion.activation, fusion.drop_rate)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, images: Tensor, rows: Rows) -> Tensor:
        """Outputs (B, C). images: float32 (P, 3, S, S), those that `rows.present` says are there, in its order."""
        parts = self._images(images, rows.present) if self.image else []
        if self.numerical_mlp:
            parts.append(self.numerical_mlp(self._forget(rows.numbers, torch.nan)))
        if self.categorical_mlp:
            parts.append(self.categorical_mlp(self._forget(rows.codes, MISSING)))
        return self.head(self.fusion_mlp(torch.cat(parts, dim=1)))

    def _images(self, images: Tensor, present: Tensor) -> list[Tensor]:
        """The features of each image column, (B, width)."""
        count, views = present.shape
        features = self.missing.weight.float().repeat(count, 1)
        if len(images):
            places = present.flatten().nonzero()[:, 0].to(images.device, non_blocking=True)
            features = features.index_copy(0, places, self._look(images).float())
        elif self.training:  # several ranks wait for every weight's gradient, here 0, also where a rank has no image
            features = features + 0 * self._sum_of_weights()
        if self.training and self._dropped:
            gone = torch.rand(count * views, 1, device=features.device) < self._dropped
            features = torch.where(gone, self.missing.weight.float().repeat(count, 1), features)
        features = self.image_norm(features)
        return list(features.view(count, views, -1).unbind(1))

    def _sum_of_weights(self) -> Tensor | int:
        assert self.image is not None
        return sum(weight.sum() for weight in self.image.parameters() if weight.requires_grad)

    def _look(self, images: Tensor) -> Tensor:
        assert self.image is not None
        if len(images) == 1 and self.training:  # a batch norm of one small image has no variance
            return self.image(images.repeat(2, 1, 1, 1))[:1]
        return self.image(images)

    def _forget(self, cells: Tensor, missing: float) -> Tensor:
        """All cells of some rows, as if they were missing."""
        if not (self.training and self._dropped):
            return cells
        gone = torch.rand(len(cells), 1, device=cells.device) < self._dropped
        return cells.masked_fill(gone, missing)

    # -- what timm's tools ask a model for ----------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """All that is not the backbone: it is new to whatever weights the backbone has."""
        return nn.ModuleList(module for name, module in self.named_children() if name != "image")

    def no_weight_decay(self) -> set[str]:
        spared = getattr(self.image, "no_weight_decay", set)
        return {f"image.{name}" for name in spared()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], Sequence[float]]:
        """The backbone's layers by their depth, for decays by layer; all else is above them."""
        depth = _depths(self.image, coarse)
        return lambda name: depth.get(name.removeprefix("image."), (float("inf"),))


def build_model(
    config: TrialConfig, columns: Columns | None, outputs: int, size: int, with_weights: bool = True
) -> tuple[nn.Module, Input]:
    """The model of a trial on the CPU and what its images are fed: of images alone (`columns` None) timm's own, of a
    table's rows a FusedModel. See hpo.trial.model.create_model.

    Raises:
        TrialError: nothing is left to look at. TrialError, WeightsError: as create_model.
    """
    if columns is None:
        return create_model(config.model, outputs, size, with_weights)
    wanted = config.uses("timm_image")
    if not (wanted or any(config.uses(name) for name, there in _branches(columns).items() if there)):
        raise TrialError(f"model.names is {config.models.names}, of which the data have nothing; name timm_image too.")
    backbone, feed, width = create_backbone(config.model, 0, size, with_weights and wanted)
    return FusedModel(backbone if wanted else None, width, columns, config, outputs), feed


def _branches(columns: Columns) -> dict[str, bool]:
    return {"numerical_mlp": bool(columns.numerical), "categorical_mlp": bool(columns.categorical)}


def _depths(image: Any, coarse: bool) -> dict[str, tuple[float, ...]]:
    if image is None or not hasattr(image, "group_matcher"):
        return {}
    from timm.models import group_parameters

    layers = group_parameters(image, image.group_matcher(coarse=coarse), reverse=True)
    return {name: (float(layer),) for name, layer in layers.items()}


class NumericalBranch(nn.Module):
    """Numbers float64 (B, n), NaN where missing, to (B, width)."""

    def __init__(self, columns: Sequence[Numerical], config: NumericalConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([column.mean for column in columns], dtype=torch.float64))
        self.register_buffer("std", torch.tensor([column.std for column in columns], dtype=torch.float64))
        sizes = [2 * len(columns), *[config.hidden_size] * config.num_layers]
        self.layers = _mlp(sizes, config.activation, config.drop_rate)

    def forward(self, numbers: Tensor) -> Tensor:
        missing = numbers.isnan()
        standard = ((numbers - self.mean) / self.std).clamp(-_FARTHEST, _FARTHEST).masked_fill(missing, 0)
        return self.layers(torch.cat([standard.float(), missing.float()], dim=1))


class CategoricalBranch(nn.Module):
    """Codes int64 (B, c) to (B, width)."""

    def __init__(self, columns: Sequence[Categorical], config: NumericalConfig, least: int, most: int | None) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.places: Tensor  # from every column's codes to the rows of one table of embeddings
        self.starts: Tensor  # where in `places` each column begins
        places = [_known(column, least, most) for column in columns]
        self.register_buffer("places", torch.cat(places))
        self.register_buffer("starts", torch.tensor([0, *(len(place) for place in places[:-1])]).cumsum(0))
        self.embeddings = nn.ModuleList(_embedding(len(place)) for place in places)
        inside = sum(embedding.embedding_dim for embedding in self.embeddings)  # type: ignore[misc]
        sizes = [inside, *[config.hidden_size] * config.num_layers]
        self.layers = _mlp(sizes, config.activation, config.drop_rate)

    def forward(self, codes: Tensor) -> Tensor:
        known = self.places[codes + self.starts]
        parts = [embedding(known[:, number]) for number, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat(parts, dim=1))


def _known(column: Categorical, least: int, most: int | None) -> Tensor:
    """Each code of a column as it is looked up: a category of fewer than `least` training rows, or not among the
    `most` frequent ones, is unknown."""
    codes = torch.arange(FIRST + len(column.categories))
    counts = torch.tensor(column.counts, dtype=torch.long)
    codes[FIRST:][counts < least] = UNKNOWN
    if most is not None:
        rare = torch.argsort(counts, descending=True, stable=True)[most:]
        codes[FIRST + rare] = UNKNOWN
    return codes


def _embedding(entries: int) -> nn.Embedding:
    """As wide as fastai's rule says, 1.6 * entries ** 0.56."""
    embedding = nn.Embedding(entries, min(_WIDEST, round(1.6 * entries**0.56)))
    nn.init.normal_(embedding.weight, std=_STILL)
    with torch.no_grad():
        embedding.weight[:FIRST] = 0
    return embedding


def _numerical(columns: Columns, config: TrialConfig) -> NumericalBranch | None:
    wanted = columns.numerical and config.uses("numerical_mlp")
    return NumericalBranch(columns.numerical, config.numerical) if wanted else None


def _categorical(columns: Columns, config: TrialConfig) -> CategoricalBranch | None:
    if not (columns.categorical and config.uses("categorical_mlp")):
        return None
    least, most = config.vocabulary.minimum_cat_count, config.vocabulary.maximum_num_cat
    return CategoricalBranch(columns.categorical, config.categorical, least, most)


def _mlp(sizes: Sequence[int], activation: str, drop_rate: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inside, outside), nn.LayerNorm(outside), _ACTIVATIONS[activation](), nn.Dropout(drop_rate)]
    return nn.Sequential(*layers)
