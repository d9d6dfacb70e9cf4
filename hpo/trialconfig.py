"""What one trial is told: every key, its default, its type and its bounds. The one list of them all.

Keys are AutoGluon AutoMM's, spelt `optim.lr` as today or `optimization.learning_rate` as in its tutorial, and a few
of our own. Each dataclass field below is the key of that name under its section's prefix; a key that is not here is
refused. Defaults are AutoMM's unless a comment says why not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.automm import require_ours
from hpo.errors import UsageError, nearest

SCHEDULES = ("cosine_decay", "linear_decay", "constant")
PRECISIONS = ("auto", "32", "bf16", "16")
ACCELERATORS = ("auto", "gpu", "cpu")
PEFT = ("linear_probe", "bit_fit", "norm_fit")
MODELS = ("timm_image", "numerical_mlp", "categorical_mlp", "fusion_mlp")
ACTIVATIONS = ("leaky_relu", "relu", "gelu", "silu")
TRANSFORMS = ("resize", "center_crop", "random_resized_crop", "random_crop", "random_horizontal_flip")

_TRANSFORMS_RENAMED = {  # AutoMM's words for the same
    "resize_to_square": "resize",
    "random_resize_crop": "random_resized_crop",
}
_RENAMED = {  # the tutorial's words and Lightning's, by today's
    "learning_rate": "lr",
    "efficient_finetune": "peft",
    "16-mixed": "16",
    "fp16": "16",
    "bf16-mixed": "bf16",
    "fp32": "32",
    "no": "32",
}


def key(
    default: Any, help: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field with its bounds (inclusive), its permitted words and one line of help."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
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
    max_epochs: int = key(20, "epochs of a whole training", low=1)
    warmup_steps: float = key(0.1, "share of all updates below 1, number of updates from 1 on", low=0)
    lr_schedule: str = key("cosine_decay", "after the warm-up", choices=SCHEDULES)
    gradient_clip_val: float = key(1.0, "largest gradient norm; 0 is off", low=0)
    label_smoothing: float = key(0.0, "of the cross entropy", low=0, high=1)
    lr_decay: float = key(
        1.0, "learning rate factor from each layer to the one before; 1 is off (AutoMM: 0.9)", low=0, high=1
    )
    peft: str | None = key(None, "train only a part of a pretrained model; none: all of it", choices=PEFT)
    patience: int = key(10, "epochs without a better value before a trial ends itself", low=1)


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
        ["random_resized_crop", "random_horizontal_flip"], "in this order", choices=TRANSFORMS
    )
    crop_scale: float = key(0.35, "smallest share of the area that random_resized_crop keeps", low=0.01, high=1)


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Keys `env.*`."""

    batch_size: int = key(128, "images an update, over all GPUs and accumulation steps", low=1)
    per_gpu_batch_size: int | None = key(None, "images at a time on one GPU; none: batch_size", low=1)
    precision: str = key("auto", "auto: bf16 on a GPU that has it, else 32", choices=PRECISIONS)
    accelerator: str = key("auto", "cpu trains without a GPU even where one was given", choices=ACCELERATORS)
    num_workers: int = key(2, "threads that decode and crop", low=0, high=256)


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


TABLE_SECTIONS: dict[str, type] = {  # of data with a table only
    "model": ModelsConfig,
    "model.fusion_mlp": FusionConfig,
    "model.numerical_mlp": NumericalConfig,
    "model.categorical_mlp": CategoricalConfig,
    "data.categorical": VocabularyConfig,
    "data": ModalitiesConfig,
}
SECTIONS: dict[str, type] = {
    "optim": OptimConfig,
    "model.timm_image": ModelConfig,
    "env": EnvConfig,
    "data.mixup": MixupConfig,
    **TABLE_SECTIONS,
}
_SPELLINGS = {"optimization": "optim"}


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial's whole configuration; `metric` and `mode` choose its best epoch, `seed` its randomness."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    numerical: NumericalConfig = field(default_factory=NumericalConfig)
    categorical: CategoricalConfig = field(default_factory=CategoricalConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    modalities: ModalitiesConfig = field(default_factory=ModalitiesConfig)
    metric: str = "val_accuracy"
    mode: str = "max"
    seed: int = 0
    num_to_keep: int = 3

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], **others: Any) -> TrialConfig:
        """The configuration for flat keys such as {'optim.lr': 0.01}; what is not named keeps its default.

        Raises:
            UsageError: a key is unknown, or a value has the wrong type or is out of bounds.
        """
        sections: dict[str, dict[str, Any]] = {prefix: {} for prefix in SECTIONS}
        for name, value in values.items():
            canonical = canonical_key(name)
            prefix, _, field_name = canonical.rpartition(".")
            sections[prefix][field_name] = check_value(canonical, value)
        return cls(
            optim=OptimConfig(**sections["optim"]),
            model=ModelConfig(**sections["model.timm_image"]),
            env=EnvConfig(**sections["env"]),
            mixup=MixupConfig(**sections["data.mixup"]),
            models=ModelsConfig(**sections["model"]),
            fusion=FusionConfig(**sections["model.fusion_mlp"]),
            numerical=NumericalConfig(**sections["model.numerical_mlp"]),
            categorical=CategoricalConfig(**sections["model.categorical_mlp"]),
            vocabulary=VocabularyConfig(**sections["data.categorical"]),
            modalities=ModalitiesConfig(**sections["data"]),
            **others,
        )

    def uses(self, model: str) -> bool:
        """Whether `model`, one of MODELS, has a part in what is made of a table's rows."""
        return self.models.names is None or model in self.models.names

    def to_flat(self, has_table: bool = False) -> dict[str, Any]:
        """All keys with their values, JSON-ready; `from_flat` reads it back. Those of tables only if `has_table`."""
        parts = {
            "optim": self.optim,
            "model.timm_image": self.model,
            "env": self.env,
            "data.mixup": self.mixup,
        }
        if has_table:
            parts |= {
                "model": self.models,
                "model.fusion_mlp": self.fusion,
                "model.numerical_mlp": self.numerical,
                "model.categorical_mlp": self.categorical,
                "data.categorical": self.vocabulary,
                "data": self.modalities,
            }
        return {
            f"{prefix}.{name}": value
            for prefix, part in parts.items()
            for name, value in dataclasses.asdict(part).items()  # type: ignore[call-overload]
        }


def known_keys() -> dict[str, dataclasses.Field[Any]]:
    """Canonical key -> its field, in the order of the sections."""
    return {f"{prefix}.{f.name}": f for prefix, section in SECTIONS.items() for f in dataclasses.fields(section)}


def is_of_tables(name: str) -> bool:
    """Whether canonical key `name` acts on data with a table only."""
    return name.rpartition(".")[0] in TABLE_SECTIONS


def default_value(name: str) -> Any:
    """The default of canonical key `name`."""
    found = known_keys()[name]
    return found.default_factory() if found.default_factory is not dataclasses.MISSING else found.default


def canonical_key(name: str) -> str:
    """Today's spelling of `name`: 'optimization.learning_rate' -> 'optim.lr'.

    Raises:
        UsageError: there is no such key in either spelling.
    """
    prefix, _, last = str(name).rpartition(".")
    canonical = f"{_SPELLINGS.get(prefix, prefix)}.{_RENAMED.get(last, last)}"
    known = known_keys()
    if canonical not in known:
        require_ours(str(name))
        spellings = [*known, *(k.replace("optim.", "optimization.", 1) for k in known if k.startswith("optim."))]
        raise UsageError(f"unknown key {name!r}.{nearest(str(name), [*spellings, 'optimization.learning_rate'])}")
    return canonical


def check_value(name: str, value: Any) -> Any:
    """`value` as the type of canonical key `name`; text such as '10' or '3e-4' counts as a number.

    Raises:
        UsageError: wrong type, out of bounds, or not one of the permitted words.
    """
    found = known_keys()[name]
    kind = str(found.type)
    if value is None:
        if "None" in kind:
            return None
        raise UsageError(f"{name} needs a value, got none.")
    converted = _CONVERTERS[kind.split(" ")[0]](name, value)
    _check_bounds(name, converted, found.metadata)
    return converted


def _check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    if isinstance(value, (int, float)) and not bounds["low"] <= value <= bounds["high"]:
        limits = (
            f"at least {bounds['low']:g}" if math.isinf(bounds["high"]) else f"{bounds['low']:g} to {bounds['high']:g}"
        )
        raise UsageError(f"{name} must be {limits}, got {value:g}.")
    if isinstance(value, list) and value and isinstance(value[0], int):
        for item in value:
            _check_bounds(name, item, bounds)
    words = value if isinstance(value, list) else [value]
    for word in words:
        if bounds["choices"] and word not in bounds["choices"]:
            words_known = ", ".join(bounds["choices"])
            raise UsageError(
                f"{name} must be one of {words_known}, got {word!r}.{nearest(str(word), bounds['choices'])}"
            )


def _to_float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"{name} must be a number, got {value!r}.")
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"{name} must be a number, got {value!r}.") from None
    if not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, got {value!r}.")
    return number


def _to_int(name: str, value: Any) -> int:
    number = _to_float(name, value)
    if number != int(number):
        raise UsageError(f"{name} must be a whole number, got {value!r}.")
    return int(number)


def _to_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()  # `pretrained: true`
    if isinstance(value, int):
        value = str(value)  # `precision: 32`
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name} must be text, got {value!r}.")
    return _RENAMED.get(value, value) if name == "env.precision" else value


def _to_bool(name: str, value: Any) -> bool:
    words = {"true": True, "false": False}
    found = words.get(str(value).lower())
    if found is None:
        raise UsageError(f"{name} must be true or false, got {value!r}.")
    return found


def _to_list(name: str, value: Any) -> list[str]:
    if name == "model.names" and isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name} must be a list of texts, got {value!r}.")
    return [_TRANSFORMS_RENAMED.get(str(item), str(item)) for item in value]


def _to_whole_numbers(name: str, value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{name} must be a list of whole numbers, got {value!r}.")
    return [_to_int(name, item) for item in value]


_CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "float": _to_float,
    "int": _to_int,
    "str": _to_text,
    "bool": _to_bool,
    "list[str]": _to_list,
    "list[int]": _to_whole_numbers,
}
