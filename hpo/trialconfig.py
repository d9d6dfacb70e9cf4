"""One trial's configuration: keys and values as people write them, checked, into frozen dataclasses and back.

Keys are AutoGluon AutoMM's, spelt `optim.lr` as today or `optimization.learning_rate` as in its tutorial, and a few
of our own; hpo.trialkeys lists them all. A key that is not there is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.automm import VALUES, require_ours
from hpo.errors import UsageError, nearest
from hpo.trialkeys import (
    SECTIONS,
    TABLE_SECTIONS,
    CategoricalConfig,
    EnvConfig,
    ErasingConfig,
    FocalConfig,
    FusionConfig,
    LoraConfig,
    MixupConfig,
    ModalitiesConfig,
    ModelConfig,
    ModelsConfig,
    NumericalConfig,
    OptimConfig,
    VocabularyConfig,
)

_RENAMED = {  # the tutorial's words and Lightning's, by today's
    "learning_rate": "lr",
    "efficient_finetune": "peft",
    "loss_function": "loss_func",
}
_MOVED = {"env.compile.turn_on": "env.compile"}  # AutoMM's whole keys, by ours
_VALUES_RENAMED = {
    "env.precision": {
        "16-mixed": "16",
        "fp16": "16",
        "bf16-mixed": "bf16",
        "32-true": "32",
        "fp32": "32",
        "no": "32",
    },
    "optim.lr_schedule": {"polynomial_decay": "linear_decay"},  # AutoMM's has power 1
}


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial's whole configuration; `metric` and `mode` choose its best epoch, `seed` its randomness."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    erasing: ErasingConfig = field(default_factory=ErasingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    focal: FocalConfig = field(default_factory=FocalConfig)
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
    constraints: Mapping[str, float] = field(default_factory=dict)  # see hpo.measures
    objectives: tuple[str, ...] = ()

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
        parts = {name: section(**sections[prefix]) for prefix, (name, section) in SECTIONS.items()}
        return cls(**parts, **others)

    def uses(self, model: str) -> bool:
        """Whether `model`, one of MODELS, has a part in what is made of a table's rows."""
        return self.models.names is None or model in self.models.names

    def to_flat(self, has_table: bool = False) -> dict[str, Any]:
        """All keys with their values, JSON-ready; `from_flat` reads it back. Those of tables only if `has_table`."""
        sections = SECTIONS if has_table else {p: section for p, section in SECTIONS.items() if p not in TABLE_SECTIONS}
        return {
            f"{prefix}.{name}": value
            for prefix, (part, _) in sections.items()
            for name, value in dataclasses.asdict(getattr(self, part)).items()
        }


@functools.cache  # asked for at every report of a trial
def known_keys() -> Mapping[str, dataclasses.Field[Any]]:
    """Canonical key -> its field, in the order of the sections."""
    return {f"{prefix}.{f.name}": f for prefix, (_, section) in SECTIONS.items() for f in dataclasses.fields(section)}


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
    prefix, _, last = _MOVED.get(str(name), str(name)).rpartition(".")
    section, dot, rest = prefix.partition(".")
    today = f"optim{dot}{rest}" if section == "optimization" else prefix
    canonical = f"{today}.{_RENAMED.get(last, last)}"
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
    check = found.metadata["check"]
    return check(name, converted) if check else converted


def _check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    low, high, choices = bounds["low"], bounds["high"], bounds["choices"]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (int, float)) and not low <= item <= high:
            limits = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
            limits = f"{low:g} or more and below 1" if high == math.nextafter(1, 0) else limits
            raise UsageError(f"{name} must be {limits}, got {item:g}.")
        if choices and item not in choices:
            reason = VALUES.get(name, {}).get(str(item))
            if reason:
                raise UsageError(f"AutoMM's {name}={item} is not supported: {reason}. Choose of {', '.join(choices)}.")
            raise UsageError(f"{name} must be one of {', '.join(choices)}, got {item!r}.{nearest(str(item), choices)}")


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
    return _VALUES_RENAMED.get(name, {}).get(value, value)


def _to_bool(name: str, value: Any) -> bool:
    words = {"true": True, "false": False}
    found = words.get(str(value).lower())
    if found is None:
        raise UsageError(f"{name} must be true or false, got {value!r}.")
    return found


def _to_texts(name: str, value: Any) -> list[str]:
    if name == "model.names" and isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name} must be a list of texts, got {value!r}.")
    return [str(item) for item in value]


def _to_floats(name: str, value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{name} must be a list of numbers, got {value!r}.")
    return [_to_float(name, item) for item in value]


def _to_whole_numbers(name: str, value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{name} must be a list of whole numbers, got {value!r}.")
    return [_to_int(name, item) for item in value]


_CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "float": _to_float,
    "int": _to_int,
    "str": _to_text,
    "bool": _to_bool,
    "list[str]": _to_texts,
    "list[float]": _to_floats,
    "list[int]": _to_whole_numbers,
}
