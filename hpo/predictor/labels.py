"""What a label column asks for: the kind of problem, the classes, and the way from labels to numbers and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.data.cells import as_number
from hpo.errors import DataError, UsageError
from hpo.metrics import PROBLEM_TYPES

_MOST_CLASSES = 1000
_KINDS = {"bool": bool, "int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Labels:
    """`problem_type` is binary, multiclass or regression. `classes` in the order of a model's outputs, as the person
    wrote them: booleans, numbers or texts. `positive`: the class that counts as positive of two."""

    problem_type: str
    classes: tuple[Any, ...] = ()
    positive: int = 1

    @property
    def task(self) -> str:
        return "regression" if self.problem_type == "regression" else "classification"

    def encode(self, values: Sequence[Any], where: str) -> np.ndarray:
        """Class numbers int64 (N,), or float32 (N, 1) in regression.

        Raises:
            DataError: a missing label, one that is no number, or a class that training did not have.
        """
        plain = [plain_label(value, f"{where} row {row}") for row, value in enumerate(values)]
        if self.problem_type == "regression":
            return np.array([[_number(value, f"{where} row {row}")] for row, value in enumerate(plain)], np.float32)
        number_of = {_text(name): number for number, name in enumerate(self.classes)}
        unknown = next(((row, value) for row, value in enumerate(plain) if _text(value) not in number_of), None)
        if unknown:
            known = ", ".join(list(number_of)[:10])
            raise DataError(
                f"{where} row {unknown[0]} has class {unknown[1]!r}, which training did not have ({known})."
            )
        return np.array([number_of[_text(value)] for value in plain], np.int64)

    def to_json(self) -> dict[str, Any]:
        kind = next((name for name, cls in _KINDS.items() if all(type(c) is cls for c in self.classes)), "str")
        return {
            "problem_type": self.problem_type,
            "classes": list(self.classes),
            "kind": kind,
            "positive": self.positive,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Labels:
        classes = tuple(_KINDS[values["kind"]](value) for value in values["classes"])
        return cls(values["problem_type"], classes, values["positive"])


def infer_labels(values: Sequence[Any], problem_type: str | None, pos_label: Any = None) -> Labels:
    """The labels of a training table; `problem_type` and `pos_label` where the person says so.

    The kind of problem follows AutoGluon: two values are binary, texts multiclass; numbers are regression unless they
    are whole and few (at most 5 % of more than 1000 rows, 10 % of fewer).

    Raises:
        UsageError: no such problem type, or it does not fit the labels. DataError: a label is missing.
    """
    plain = [plain_label(value, f"train_data row {row}") for row, value in enumerate(values)]
    if not plain:
        raise DataError("train_data has no rows.")
    if problem_type not in (None, "classification", *PROBLEM_TYPES):
        raise UsageError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}.")
    found = problem_type or _guess(plain)
    if problem_type == "classification":
        found = "binary" if len({_text(value) for value in plain}) == 2 else "multiclass"
    if found == "regression":
        return Labels("regression")
    classes = _in_order(plain)
    if len(classes) < 2:
        raise DataError(f"every row of train_data has the label {classes[0]!r}; give at least two classes.")
    if found == "binary" and len(classes) != 2:
        raise UsageError(f"problem_type is binary, but the label has {len(classes)} values; use multiclass.")
    return Labels(found, classes, _positive(classes, pos_label))


def plain_label(value: Any, where: str) -> Any:
    """A label as plain Python: bool, int, float or str.

    Raises:
        DataError: it is missing, or is no single value.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, (list, tuple, dict, set)) or hasattr(value, "__array__"):
        raise DataError(f"{where} has label {value!r}; a label is one number or text.")
    if type(value).__name__ in ("NAType", "NaTType") or value is None or value == "" or value != value:
        raise DataError(f"{where} has no label; complete it or remove the row.")
    if isinstance(value, (bool, int, float, str)):
        return value
    raise DataError(f"{where} has label {value!r}; a label is one number or text.")


def _guess(values: Sequence[Any]) -> str:
    different = {_text(value) for value in values}
    if len(different) == 2:
        return "binary"
    if not all(isinstance(value, (int, float)) for value in values):
        return "multiclass"
    share = len(different) / len(values)
    few = share <= (0.05 if len(values) > _MOST_CLASSES else 0.1) and len(different) <= _MOST_CLASSES
    return "multiclass" if few and all(float(value).is_integer() for value in values) else "regression"


def _in_order(values: Sequence[Any]) -> tuple[Any, ...]:
    """Each class once: numbers by value, else by text. Labels of mixed types become texts."""
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        values = [float(value) for value in values] if kinds == {int, float} else [_text(value) for value in values]
    return tuple(sorted(dict.fromkeys(values)))


def _text(value: Any) -> str:
    """By what two labels are the same: 1 and 1.0 are, as a column with a missing value turns one into the other."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _positive(classes: Sequence[Any], pos_label: Any) -> int:
    if pos_label is None:
        return 1
    for number, name in enumerate(classes):
        if _text(name) == _text(pos_label):
            return number
    raise UsageError(f"data.pos_label {pos_label!r} is none of the classes {', '.join(map(str, classes[:10]))}.")


def _number(value: Any, where: str) -> float:
    number = as_number(value)
    if number is None:
        raise DataError(f"{where} has label {value!r}, not a finite number; mend it or remove the row.")
    return number
