"""The search space: what may be chosen for each key, and when.

In a sweep file a domain is one word of Ray Tune's with its arguments; a value without such a word is fixed:

    optimization.learning_rate: {loguniform: [1e-4, 1e-1], default: 1e-3}
    model.timm_image.checkpoint_name: {choice: [resnet18, vit_tiny_patch16_224]}
    optimization.max_epochs: {randint: [5, 31]}                    # 5 to 30: as in Ray, the upper end is left out
    optimization.momentum: {uniform: [0.8, 0.99], when: {optimization.optim_type: sgd}}
    optimization.learning_rate:                                     # one domain or another
      - {loguniform: [1e-2, 1], when: {optimization.optim_type: sgd}}
      - {loguniform: [1e-5, 1e-2], when: {optimization.optim_type: [adamw, lamb]}}
    optimization.ema_decay: {choice: [0, {uniform: [0.9, 0.9999]}]}               # a range among options: hpo.options
    data.mixup: {choice: [{turn_on: false}, {turn_on: true, prob: {uniform: [0.2, 1]}}]}

A configuration ('params') maps each active key to its value. Nothing here is random by itself: whoever samples
passes the random number generator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError, nearest
from hpo.options import expand_ranges, expand_sections, is_choice_of_sections, is_option_key, options_for
from hpo.trialconfig import canonical_key, check_value, default_value, known_keys

Params = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `step` makes a grid from `low` on; `log` spreads by magnitude."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def sample(self, rng: random.Random) -> float | int:
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high + (1 if self.integer else 0))))
        elif self.integer and self.step is None:
            return rng.randint(int(self.low), int(self.high))
        else:
            value = rng.uniform(self.low, self.high)
        return self.clip(math.floor(value) if self.integer and self.log else value)

    def clip(self, value: float) -> float | int:
        """The permitted value nearest to `value`."""
        if self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
            value = min(value, self.low + math.floor((self.high - self.low) / self.step + 1e-9) * self.step)
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else min(max(float(f"{value:.12g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def middle(self) -> float | int:
        return self.clip(math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2)

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.integer or self.step is not None:
            return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1
        return math.inf


@dataclass(frozen=True)
class Choice:
    """One of `options`, which may be texts, numbers, booleans, lists or null."""

    options: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        return self.options[rng.randrange(len(self.options))]

    def contains(self, value: Any) -> bool:
        return value in self.options

    def middle(self) -> Any:
        return self.options[0]

    @property
    def size(self) -> float:
        return len(self.options)


Domain = Range | Choice


@dataclass(frozen=True)
class Dimension:
    """One domain of one key. `when` maps other keys to the values for which it holds; {} is always."""

    name: str  # the key, with #2, #3 ... where a key has several domains
    key: str
    domain: Domain
    default: Any
    when: Mapping[str, tuple[Any, ...]]

    def active(self, params: Mapping[str, Any]) -> bool:
        return all(key in params and params[key] in values for key, values in self.when.items())


@dataclass(frozen=True)
class Space:
    """Dimensions in an order in which each comes after those that its `when` names, and the fixed keys."""

    dimensions: tuple[Dimension, ...]
    constants: Mapping[str, Any]

    @property
    def conditional(self) -> bool:
        return any(dimension.when for dimension in self.dimensions)

    @property
    def size(self) -> float:
        """At most so many different configurations (infinite with any continuous dimension)."""
        return math.prod(dimension.domain.size for dimension in self.dimensions)

    def build(self, pick: Any) -> Params:
        """The configuration that `pick(dimension)` chooses, asked for active dimensions only."""
        params: Params = {}
        for dimension in self.dimensions:
            if dimension.key not in params and dimension.active({**self.constants, **params}):
                params[dimension.key] = pick(dimension)
        return params

    def sample(self, rng: random.Random) -> Params:
        return self.build(lambda dimension: dimension.domain.sample(rng))

    def default(self) -> Params:
        """Trial 0: each key's default as far as the space permits it."""
        return self.build(lambda dimension: dimension.default)

    def active(self, params: Mapping[str, Any]) -> list[Dimension]:
        """The dimensions that gave `params` its values."""
        found: list[Dimension] = []

        def note(dimension: Dimension) -> Any:
            found.append(dimension)
            return params[dimension.key]

        self.build(note)
        return found

    def complete(self, point: Mapping[str, Any]) -> Params:
        """A whole configuration from a person's `point`: what it leaves out takes the default.

        Raises:
            UsageError: it names a key that is not searched, or a value outside the space.
        """
        wanted = {_key_of(key): _checked(_key_of(key), value) for key, value in point.items()}
        wanted |= options_for(self, wanted)
        for key in wanted:
            if key not in {dimension.key for dimension in self.dimensions}:
                raise UsageError(f"points_to_evaluate: {key} is not searched; give it a domain or leave it out.")

        def pick(dimension: Dimension) -> Any:
            value = wanted.get(dimension.key, dimension.default)
            if not dimension.domain.contains(value):
                raise UsageError(f"points_to_evaluate: {dimension.key}={value!r} lies outside the space.")
            return value

        return self.build(pick)


def parse_space(hyperparameters: Mapping[str, Any]) -> Space:
    """The space of a flat or nested mapping in the form above.

    Raises:
        UsageError: an unknown key, word or value; a domain that is empty or impossible; a circular `when`.
    """
    constants: Params = {}
    dimensions: list[Dimension] = []
    seen: set[str] = set()
    for name, value in _flatten(hyperparameters):
        key = _key_of(name)
        if key in seen:
            raise UsageError(f"{key} is given twice ({name} is another spelling of it); keep one.")
        seen.add(key)
        if _is_domain(value):
            pairs = [(key, value)] if is_option_key(key) else expand_ranges(key, value)
            dimensions += [dimension for pair in pairs for dimension in _parse_key(*pair)]
        else:
            constants[key] = check_value(key, value)
    space = Space(tuple(_in_order(dimensions, constants)), constants)
    _check_conditions(space)
    return space


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = canonical_key(name) if is_option_key(str(name)) else f"{prefix}{name}"  # no person's to write
        section = any(
            key.startswith(f"{path}.") or key.startswith(f"{path.replace('optimization', 'optim')}.")
            for key in known_keys()
        )
        if section and is_choice_of_sections(value):
            flat += expand_sections(path, value, _flatten)
        else:
            flat += _flatten(value, f"{path}.") if section and isinstance(value, Mapping) else [(path, value)]
    return flat


def _key_of(name: str) -> str:
    return name if is_option_key(name) else canonical_key(name)


def _checked(key: str, value: Any) -> Any:
    return value if is_option_key(key) else check_value(key, value)


def _is_domain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _parse_key(key: str, value: Any) -> list[Dimension]:
    cases = value if isinstance(value, list) else [value]
    if len(cases) > 1 and not all(case.get("when") for case in cases):
        raise UsageError(f"{key}: each of its {len(cases)} domains needs a 'when'.")
    return [_parse_case(key, key if i == 0 else f"{key}#{i + 1}", case) for i, case in enumerate(cases)]


def _parse_case(key: str, name: str, case: Mapping[str, Any]) -> Dimension:
    words = [word for word in case if word not in ("default", "when")]
    if len(words) != 1 or words[0] not in _PARSERS:
        wrong = next((word for word in words if word not in _PARSERS), ", ".join(words) or "nothing")
        remedy = (
            " Use choice: nothing is tried twice before all was."
            if wrong == "grid_search"
            else nearest(str(wrong), _PARSERS)
        )
        raise UsageError(f"{key}: a domain is one of {', '.join(_PARSERS)}, got {wrong}.{remedy}")
    arguments = case[words[0]]
    if not isinstance(arguments, list):
        raise UsageError(f"{key}: {words[0]} takes a list, got {arguments!r}.")
    domain = _PARSERS[words[0]](key, arguments)
    return Dimension(name, key, domain, _parse_default(key, domain, case), _parse_when(key, case.get("when", {})))


def _parse_default(key: str, domain: Domain, case: Mapping[str, Any]) -> Any:
    if "default" not in case:
        usual = default_value(key)
        return usual if domain.contains(usual) else domain.middle()
    value = _checked(key, case["default"])
    if not domain.contains(value):
        raise UsageError(f"{key}: its default {value!r} lies outside its own domain.")
    return value


def _parse_when(key: str, when: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise UsageError(f"{key}: 'when' takes a mapping of keys to values, got {when!r}.")
    conditions = {}
    for name, values in when.items():
        other = _key_of(name)
        conditions[other] = tuple(_checked(other, v) for v in (values if isinstance(values, list) else [values]))
    return conditions


def _numbers(key: str, word: str, arguments: Sequence[Any], count: int) -> list[float]:
    if len(arguments) != count:
        raise UsageError(f"{key}: {word} takes {count} numbers, got {list(arguments)!r}.")
    try:
        numbers = [float(argument) for argument in arguments]
    except (TypeError, ValueError):
        raise UsageError(f"{key}: {word} takes {count} numbers, got {list(arguments)!r}.") from None
    return numbers


def _range(word: str, *, log: bool = False, integer: bool = False, steps: bool = False) -> Any:
    def parse(key: str, arguments: Sequence[Any]) -> Range:
        low, high, *rest = _numbers(key, word, arguments, 3 if steps else 2)
        if integer and (low != int(low) or high != int(high)):
            raise UsageError(f"{key}: {word} takes whole numbers, got {list(arguments)!r}.")
        if not integer and str(known_keys()[key].type).startswith("int"):
            raise UsageError(f"{key} is a whole number: use randint, lograndint or choice instead of {word}.")
        high -= 1 if integer else 0  # Ray's integers leave the upper end out
        if not (math.isfinite(low) and math.isfinite(high)) or low > high or (low == high and not integer):
            raise UsageError(f"{key}: {word} needs a lower end below its upper end, got {list(arguments)!r}.")
        if log and low <= 0:
            raise UsageError(f"{key}: {word} needs a lower end above 0, got {list(arguments)!r}.")
        if rest and not 0 < rest[0] <= high - low:
            raise UsageError(f"{key}: the step {rest[0]:g} of {word} does not fit between {low:g} and {high:g}.")
        for end in (low, high):
            check_value(key, end)
        return Range(low, high, log, rest[0] if rest else None, integer)

    return parse


def _choice(key: str, options: Sequence[Any]) -> Choice:
    checked = [_checked(key, option) for option in options]
    if not checked:
        raise UsageError(f"{key}: choice needs at least one option.")
    repeated = [option for i, option in enumerate(checked) if option in checked[:i]]
    if repeated:
        raise UsageError(f"{key}: choice names {repeated[0]!r} twice.")
    return Choice(tuple(checked))


_PARSERS = {
    "uniform": _range("uniform"),
    "loguniform": _range("loguniform", log=True),
    "quniform": _range("quniform", steps=True),
    "randint": _range("randint", integer=True),
    "lograndint": _range("lograndint", log=True, integer=True),
    "choice": _choice,
}


def _in_order(dimensions: list[Dimension], constants: Params) -> list[Dimension]:
    ordered: list[Dimension] = []
    waiting = list(dimensions)
    while waiting:
        blocked = {dimension.key for dimension in waiting}
        ready = [dimension for dimension in waiting if not blocked & (set(dimension.when) - {dimension.key})]
        if not ready:
            raise UsageError(f"{waiting[0].key}: its 'when' goes round in a circle through {sorted(blocked)}.")
        ordered += ready
        waiting = [dimension for dimension in waiting if dimension not in ready]
    return ordered


def _check_conditions(space: Space) -> None:
    """Refuses a `when` that can never hold."""
    for dimension in space.dimensions:
        for key, values in dimension.when.items():
            domains = [other.domain for other in space.dimensions if other.key == key and key != dimension.key]
            possible = [v for v in values if any(d.contains(v) for d in domains) or space.constants.get(key) == v]
            if not possible:
                raise UsageError(
                    f"{dimension.key}: its 'when' asks for {key} in {list(values)!r}, which this space never has."
                )


def space_to_json(space: Space) -> list[dict[str, Any]]:
    """The dimensions as plain data, for resolved.json; `space_from_json` reads them back."""
    return [
        {
            "name": dimension.name,
            "key": dimension.key,
            "default": dimension.default,
            "when": {key: list(values) for key, values in dimension.when.items()},
            **(
                {"options": list(dimension.domain.options)}
                if isinstance(dimension.domain, Choice)
                else {
                    "low": dimension.domain.low,
                    "high": dimension.domain.high,
                    "log": dimension.domain.log,
                    "step": dimension.domain.step,
                    "integer": dimension.domain.integer,
                }
            ),
        }
        for dimension in space.dimensions
    ]


def space_from_json(dimensions: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]) -> Space:
    """The space that `space_to_json` wrote."""

    def read(item: Mapping[str, Any]) -> Dimension:
        domain: Domain
        if "options" in item:
            domain = Choice(tuple(item["options"]))
        else:
            domain = Range(item["low"], item["high"], item["log"], item["step"], item["integer"])
        when = {key: tuple(values) for key, values in item["when"].items()}
        return Dimension(item["name"], item["key"], domain, item["default"], when)

    return Space(tuple(read(item) for item in dimensions), dict(constants))
