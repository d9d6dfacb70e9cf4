"""Every key of a trial: its default, its type, its bounds and one line of help. The one list of them all.

Each dataclass field below is the key of that name under its section's prefix (SECTIONS). Defaults are AutoMM's unless
a comment says why not. hpo.trialconfig reads and checks values; hpo.automm lists AutoMM's other keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hpo.transforms import check_transforms

SCHEDULES = ("cosine_decay", "linear_decay", "constant")
CLIPPINGS = ("norm", "value", "agc")
LOSSES = ("auto", "focal_loss")
PRECISIONS = ("auto", "32", "bf16", "16")
ACCELERATORS = ("auto", "gpu", "cpu")
MODELS = ("timm_image", "numerical_mlp", "categorical_mlp", "fusion_mlp")
ACTIVATIONS = ("leaky_relu", "relu", "gelu", "silu")
PEFT = ("linear_probe", "bit_fit", "norm_fit", "lora", "lora_bias", "lora_norm")
INTERPOLATIONS = ("bilinear", "bicubic")
NORMS = ("imagenet", "inception", "clip")
SHUFFLES = ("auto", "full", "blocks")
ERASING_MODES = ("pixel", "rand", "const")
_BELOW_ONE = math.nextafter(1, 0)


def key(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    check: Callable[[str, Any], Any] | None = None,
) -> Any:
    """A field with its bounds (inclusive), its permitted words and one line of help."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "check": check}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Keys `optim.*` (or `optimization.*`)."""

    optim_type: str = key("adamw", "a timm optimiser by name: adamw, sgd, lamb, lion, ...")
    lr: float = key(1e-4, "peak learning rate", low=0)
    weight_decay: float = key(1e-3, "not applied to norms and biases", low=0)
    momentum: float = key(0.9, "of sgd and rmsprop-like optimisers", low=0, high=1)
    betas: list[float] | None = key(None, "of adam-like optimisers; none: their own", low=0, high=_BELOW_ONE)
    eps: float | None = key(None, "in the denominator of adam-like optimisers; none: their own", low=0)
    max_epochs: int = key(20, "epochs of a whole training", low=1)
    warmup_steps: float = key(0.1, "share of all updates below 1, number of updates from 1 on", low=0)
    lr_schedule: str = key("cosine_decay", "after the warm-up", choices=SCHEDULES)
    end_lr: float = key(0.0, "where cosine_decay and linear_decay end", low=0)
    lr_decay: float = key(
        1.0, "learning rate factor from each layer to the one before; 1 is off (AutoMM: 0.9)", low=0, high=1
    )
    lr_mult: float = key(1.0, "learning rate factor of the classifier", low=0)
    gradient_clip_val: float = key(1.0, "largest gradient norm; 0 is off", low=0)
    gradient_clip_algorithm: str = key(
        "norm", "of all gradients; value: each number; agc: each unit by its weights", choices=CLIPPINGS
    )
    loss_func: str = key("auto", "auto: cross entropy, of numbers the squared error", choices=LOSSES)
    label_smoothing: float = key(0.0, "of the cross entropy and of focal_loss", low=0, high=1)
    peft: str | None = key(None, "train only a part of a pretrained model; none: all of it", choices=PEFT)
    extra_trainable_params: list[str] = key([], "names (regular expressions) that are trained beside peft's")
    ema_decay: float = key(0.0, "of the weights' moving average, which is then judged and kept; 0 is off",
                           low=0, high=_BELOW_ONE)  # fmt: skip
    ema_warmup: bool = key(True, "the average's decay grows from 0, 0.95 after 100 updates")
    patience: int = key(10, "epochs without a better value before a trial ends itself", low=1)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Keys `optim.lora.*`, of the peft methods lora, lora_bias and lora_norm."""

    r: int = key(8, "rank of each adapter", low=1)
    alpha: float = key(8.0, "adapters count alpha / r", low=0)
    # AutoMM's are names of Hugging Face text models, of which timm's models have next to none.
    filter: list[str] | None = key(
        None, "names of layers (regular expressions, matched at the end); none: attention's, else all but the ends"
    )


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """Keys `optim.focal_loss.*`, of loss_func focal_loss."""

    alpha: list[float] | None = key(None, "a weight for each class; none: all alike", low=0)
    gamma: float = key(2.0, "how much less easy images count; 0 is the cross entropy", low=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Keys `model.timm_image.*`."""

    # AutoMM's medium_quality model: its default of today, a caformer_b36, does not fit most cards people have.
    checkpoint_name: str = key("mobilenetv3_large_100", "any timm model")
    pretrained: str = key(
        "auto", "auto: from the local cache; true: may download; false: from scratch; or a weights file"
    )
    image_size: int | None = key(None, "pixels a side; none: the shards' size, else the model's own", low=8, high=4096)
    drop_rate: float = key(0.0, "dropout before the classifier", low=0, high=1)
    drop_path_rate: float = key(0.0, "stochastic depth, where the model has it", low=0, high=1)
    train_transforms: list[str] = key(
        ["random_resized_crop", "random_horizontal_flip"], "in this order, see hpo.transforms", check=check_transforms
    )
    crop_scale: float = key(0.35, "smallest share of the area that random_resized_crop keeps", low=0.01, high=1)
    crop_pct: float = key(1.0, "share of each side of the middle square that evaluation sees", low=0.1, high=1)
    interpolation: str = key("bilinear", "shrinking widens the filter, as in Pillow", choices=INTERPOLATIONS)
    image_norm: str | None = key(None, "mean and deviation of colours; none: the model's own", choices=NORMS)


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Keys `env.*`."""

    batch_size: int = key(128, "images an update, over all GPUs and accumulation steps", low=1)
    per_gpu_batch_size: int | None = key(None, "images at a time on one GPU; none: batch_size", low=1)
    precision: str = key("auto", "auto: bf16 on a GPU that has it, else 32", choices=PRECISIONS)
    accelerator: str = key("auto", "cpu trains without a GPU even where one was given", choices=ACCELERATORS)
    num_workers: int = key(2, "threads that decode and crop", low=0, high=256)
    shuffle: str = key("auto", "full: all images with all others; blocks: some MiB of them at a time", choices=SHUFFLES)
    compile: bool = key(False, "torch.compile; where that cannot be, a warning and the model as it is")


@dataclass(frozen=True, kw_only=True)
class MixupConfig:
    """Keys `data.mixup.*`: mixup and CutMix of a batch with itself."""

    turn_on: bool = key(False, "mix images and their labels, of classes only")
    mixup_alpha: float = key(0.8, "of the beta distribution of mixup's shares; 0 is off", low=0)
    cutmix_alpha: float = key(1.0, "of the beta distribution of CutMix's areas; 0 is off", low=0)
    prob: float = key(1.0, "share of batches that are mixed", low=0, high=1)
    switch_prob: float = key(0.5, "share of CutMix among them", low=0, high=1)
    turn_off_epoch: int | None = key(5, "the last epoch that mixes; none: all do", low=1)


@dataclass(frozen=True, kw_only=True)
class ErasingConfig:
    """Keys `data.random_erasing.*`: rectangles of training images are painted over."""

    prob: float = key(0.0, "share of images; 0 is off", low=0, high=1)
    mode: str = key("pixel", "noise, a random colour, or the mean colour", choices=ERASING_MODES)
    count: int = key(1, "most rectangles an image; each is smaller by as much", low=1, high=100)
    max_area: float = key(1 / 3, "largest share of the image", low=0.02, high=1)


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Keys `model.*` that are no model's own: for data with a table."""

    names: list[str] | None = key(None, "what of a table is modelled; none: all of it", choices=MODELS)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Keys `model.fusion_mlp.*`: the network that joins images, numbers and categories."""

    hidden_sizes: list[int] = key([128], "outputs of each layer", low=1)
    activation: str = key("leaky_relu", "after each layer", choices=ACTIVATIONS)
    drop_rate: float = key(0.1, "dropout after each layer", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class NumericalConfig:
    """Keys `model.numerical_mlp.*`: the network of a table's numbers."""

    hidden_size: int = key(128, "outputs of each layer", low=1)
    num_layers: int = key(1, "layers", low=1)
    activation: str = key("leaky_relu", "after each layer", choices=ACTIVATIONS)
    drop_rate: float = key(0.1, "dropout after each layer", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class CategoricalConfig(NumericalConfig):
    """Keys `model.categorical_mlp.*`: the network of a table's categories."""

    hidden_size: int = key(64, "outputs of each layer", low=1)


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Keys `data.categorical.*`: which categories are told apart."""

    # AutoMM's 100 and 20 would make most categories of a small table one.
    minimum_cat_count: int = key(2, "training rows below which a category counts as unknown (AutoMM: 100)", low=1)
    maximum_num_cat: int | None = key(None, "only so many, the frequent ones; none: all (AutoMM: 20)", low=1)


@dataclass(frozen=True, kw_only=True)
class ModalitiesConfig:
    """Keys `data.*` of all that a row has."""

    modality_dropout: float = key(
        0.0, "share of rows whose image, numbers or categories count as missing in training", low=0, high=0.999
    )


TABLE_SECTIONS: dict[str, tuple[str, type]] = {  # of data with a table only
    "model": ("models", ModelsConfig),
    "model.fusion_mlp": ("fusion", FusionConfig),
    "model.numerical_mlp": ("numerical", NumericalConfig),
    "model.categorical_mlp": ("categorical", CategoricalConfig),
    "data.categorical": ("vocabulary", VocabularyConfig),
    "data": ("modalities", ModalitiesConfig),
}
SECTIONS: dict[str, tuple[str, type]] = {  # prefix of the keys -> field of TrialConfig and its class
    "optim": ("optim", OptimConfig),
    "optim.lora": ("lora", LoraConfig),
    "optim.focal_loss": ("focal", FocalConfig),
    "model.timm_image": ("model", ModelConfig),
    "env": ("env", EnvConfig),
    "data.mixup": ("mixup", MixupConfig),
    "data.random_erasing": ("erasing", ErasingConfig),
    **TABLE_SECTIONS,
}
