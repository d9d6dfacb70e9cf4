"""Options of a `choice` that are ranges or whole sections, rewritten as a conditional space (see hpo.space).

    optim.lr: {choice: [{loguniform: [1e-4, 1e-2]}, 0.1]}
    data.mixup: {choice: [{turn_on: false}, {turn_on: true, mixup_alpha: {uniform: [0.1, 1]}}]}

become a key `optim.lr@option` with a text for each option, and cases that hold `when` it has that text. A trial's
params keep that key, since two options may permit the same value; no trial is configured by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.automm import spelt
from hpo.errors import UsageError
from hpo.trialconfig import canonical_key, default_value

if TYPE_CHECKING:
    from hpo.space import Space

_MARK = "@option"
_AROUND = {"choice", "default", "when"}
Pairs = list[tuple[str, Any]]  # keys and values in the form of a sweep file


def is_option_key(key: str) -> bool:
    """Whether `key` says which option was taken, and is none of a trial's."""
    return _MARK in key


def without_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` as a trial is configured by them."""
    return {key: value for key, value in params.items() if not is_option_key(key)}


def expand_ranges(key: str, value: Any) -> Pairs:
    """`key` and its domain, or list of domains; those with a range among their options come as cases and a key more.

    Raises:
        UsageError: an option has a condition of its own, or is there twice.
    """
    cases = value if isinstance(value, list) else [value]
    pairs: Pairs = []
    expanded: list[Any] = []
    for number, case in enumerate(cases):
        options = _flat_options(key, case["choice"]) if _is_choice(case) else []
        if not any(isinstance(option, Mapping) for option in options):
            expanded.append({**case, "choice": options} if options else case)
            continue
        labels = _labels(key, [_spell(option) for option in options])
        chosen = _chosen(options, case["default"]) if "default" in case else _usual(key, options)
        name = f"{key}{_MARK}{number + 1 if number else ''}"
        pairs.append((name, _selector(labels, labels[chosen], case)))
        for place, (label, option) in enumerate(zip(labels, options, strict=True)):
            default = {"default": case["default"]} if "default" in case and place == chosen else {}
            own = option if isinstance(option, Mapping) else {"choice": [option]}
            expanded.append({**own, **default, "when": {name: label}})
    return [*pairs, (key, expanded if isinstance(value, list) or pairs else expanded[0])]


def is_choice_of_sections(value: Any) -> bool:
    """Whether `value`, of a section such as `optim`, is a choice among mappings of its keys."""
    return _is_choice(value) and all(isinstance(option, Mapping) for option in value["choice"])


def expand_sections(path: str, value: Mapping[str, Any], flatten: Callable[[Mapping[str, Any], str], Pairs]) -> Pairs:
    """The choice of section `path` as cases of each key, and a key more. `flatten`: a mapping's keys below a prefix.

    Raises:
        UsageError: an option is there twice, an unknown key, or a default that is no option.
    """
    options: list[Mapping[str, Any]] = value["choice"]
    if not options:
        raise UsageError(f"{path}: choice needs at least one option.")
    flat = [flatten(option, f"{path}.") for option in options]
    labels = _labels(path, [_spell_section(path, pairs) for pairs in flat])
    if "default" in value and value["default"] not in options:
        raise UsageError(f"{path}: its default {value['default']!r} is none of its options.")
    default = options.index(value["default"]) if "default" in value else 0
    name = f"{spelt(path)}{_MARK}"
    cases: dict[str, list[Any]] = {}
    for label, pairs in zip(labels, flat, strict=True):
        for key, item in pairs:
            held = cases.setdefault(key if is_option_key(key) else canonical_key(key), [])
            held += [{**case, "when": {**case.get("when", {}), name: label}} for case in _cases(item)]
    return [(name, _selector(labels, labels[default], value)), *cases.items()]


def names_key(values: Mapping[str, Any], key: str) -> bool:
    """Whether hyperparameters `values`, by today's spelling, say anything of `key`: by itself, or in a choice of
    sections."""
    above = [path for path in values if key.startswith(f"{path}.") and is_choice_of_sections(values[path])]
    options = [(path, option) for path in above for option in values[path]["choice"]]
    return key in values or any(canonical_key(f"{path}.{name}") == key for path, option in options for name in option)


def options_for(space: Space, values: Mapping[str, Any]) -> dict[str, str]:
    """Which option of each choice among ranges or sections `values` are of: as they say, else the one that permits most
    of them (of equals the default)."""
    found: dict[str, str] = {}
    for selector in space.dimensions:
        if is_option_key(selector.key):
            labels = sorted(selector.domain.options, key=lambda label: label != selector.default)  # type: ignore[union-attr]
            best = max(labels, key=lambda label: _fit(space, selector.key, label, values))
            found[selector.key] = values[selector.key] if values.get(selector.key) in labels else best
    return found


def _fit(space: Space, selector: str, label: str, values: Mapping[str, Any]) -> int:
    """How many of `values` an option permits; -1 when there is one that it does not."""
    mine = [d for d in space.dimensions if label in d.when.get(selector, ()) and d.key in values]
    keys = {dimension.key for dimension in mine}
    fitting = {dimension.key for dimension in mine if dimension.domain.contains(values[dimension.key])}
    return len(keys) if fitting == keys else -1


def _is_choice(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("choice"), list) and set(value) <= _AROUND


def _flat_options(key: str, options: Sequence[Any]) -> list[Any]:
    """A choice among options stands for its own."""
    return list(_flatten_options(key, options))


def _flatten_options(key: str, options: Sequence[Any]) -> Iterator[Any]:
    for option in options:
        if isinstance(option, Mapping) and "when" in option:
            raise UsageError(f"{key}: an option of choice has no 'when'; put it beside the choice.")
        if isinstance(option, Mapping) and set(option) == {"choice"} and isinstance(option["choice"], list):
            yield from _flatten_options(key, option["choice"])
        else:
            yield option


def _selector(labels: list[str], default: str, case: Mapping[str, Any]) -> dict[str, Any]:
    when = {"when": case["when"]} if case.get("when") else {}
    return {"choice": labels, "default": default, **when}


def _cases(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return [item]
    listed = isinstance(item, list) and bool(item) and all(isinstance(case, Mapping) for case in item)
    return item if listed else [{"choice": [item]}]


def _spell(option: Any) -> str:
    if not isinstance(option, Mapping):
        return str(option)
    return ", ".join(f"{word} {ends[0]} to {ends[1]}" if isinstance(ends, list) and len(ends) > 1 else word
                     for word, ends in option.items() if word != "default")  # fmt: skip


def _spell_section(path: str, pairs: Pairs) -> str:
    fixed = [f"{key.removeprefix(f'{path}.')}={item}" for key, item in pairs if _cases(item)[0] is not item
             and not is_option_key(key) and not isinstance(item, list)]  # fmt: skip
    return ", ".join(fixed) or ("others" if pairs else "defaults")


def _labels(key: str, spelt: list[str]) -> list[str]:
    """A text for each option, with its number where two would be the same."""
    return [text if spelt.count(text) == 1 else f"{number} {text}" for number, text in enumerate(spelt, start=1)]


def _usual(key: str, options: Sequence[Any]) -> int:
    """The place of the first option that permits the key's own default, else 0."""
    return _chosen(options, default_value(key))


def _chosen(options: Sequence[Any], value: Any) -> int:
    return next((place for place, option in enumerate(options) if _permits(option, value)), 0)


def _permits(option: Any, value: Any) -> bool:
    if not isinstance(option, Mapping):
        return bool(option == value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    ends = next((ends for word, ends in option.items() if word != "default"), None)
    whole = isinstance(ends, list) and len(ends) > 1 and all(isinstance(end, (int, float)) for end in ends)
    return bool(number and whole and ends[0] <= value <= ends[1])  # type: ignore[index]
