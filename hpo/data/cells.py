"""The cells of a table's further columns: what counts as missing, as a number, as a category; what a column is.

One rule for CSV files and DataFrames, so that '3', 3 and 3.0 are the same category wherever they come from. Kinds of
columns carry AutoMM's names; how they are found follows it, see `find_kind`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpo.errors import DataError, UsageError, nearest

NUMERICAL, CATEGORICAL, IMAGE, NULL, TEXT = "numerical", "categorical", "image_path", "null", "text"
KINDS = (NUMERICAL, CATEGORICAL, IMAGE, NULL)
_MISSING = frozenset(  # what pandas reads as missing
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip
_BOOLEANS = {"true": "True", "false": "False"}
_FEW, _FEW_SHARE = 20, 0.1  # different values below which a column is one of categories: AutoMM's numbers
_WORDS, _REPEATED = 3, 0.01  # words a cell from which it is text, unless its texts are repeated a hundred times: too
_MOSTLY = 0.95  # of the cells are numbers: then the others are slips

Cell = bool | int | float | str | None


def clean(value: Any) -> Any:
    """`value` as plain Python, None where it is missing; what is neither number, boolean nor text stays as it is."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, str):
        value = value.strip()
        return None if value in _MISSING else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return None if isinstance(value, float) and math.isnan(value) else value


def as_number(cell: Cell) -> float | None:
    """The finite number in a cell, True being 1; None where there is none. '10_20' is none, though Python reads one."""
    if isinstance(cell, str) and "_" in cell:
        return None
    try:
        number = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def as_category(cell: Cell) -> str:
    """What two cells share that are the same category: 3, 3.0 and '3.0' are, True and 'true' are."""
    if isinstance(cell, str):
        number = as_number(cell)
        if number is None:
            return _BOOLEANS.get(cell.casefold(), cell)
        padded = cell.startswith("0") and cell[1:2].isdigit()  # a code such as 007
        return str(int(number)) if number.is_integer() and not padded else cell
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def check_kind(name: str, kind: str) -> str:
    """`kind` as one of KINDS, from a person.

    Raises:
        UsageError: it is none of them.
    """
    known = {"numeric": NUMERICAL, "image": IMAGE, "image_bytearray": IMAGE}.get(str(kind), str(kind))
    if known == TEXT:
        raise UsageError(f"column {name!r}: text is not modelled; give the column the type null to leave it out.")
    if known not in KINDS:
        raise UsageError(f"column {name!r} has type {kind!r}, not one of {', '.join(KINDS)}.{nearest(known, KINDS)}")
    return known


def find_kind(name: str, cells: Sequence[Any]) -> tuple[str, str]:
    """What a column of clean cells is, and why where that is NULL or TEXT. As AutoMM: few different values make
    categories, numbers are numerical, several words a cell are text; short texts are categories.

    Raises:
        UsageError: it can be nothing of that kind: dates, lists, numbers with slips among them.
    """
    given = [cell for cell in cells if cell is not None]
    strange = next((cell for cell in given if not isinstance(cell, (bool, int, float, str))), None)
    if strange is not None:
        kind = type(strange).__name__
        raise UsageError(f"column {name!r} holds {kind}, not numbers or texts; make such of it, or leave it out.")
    different = len({as_category(cell) for cell in given})
    if different <= 1 and len(given) in (0, len(cells)):
        return NULL, "is the same in every row" if given else "is empty"
    if different < min(_FEW, _FEW_SHARE * len(cells)) or all(isinstance(cell, bool) for cell in given):
        return CATEGORICAL, ""
    numbers = [number for number in map(as_number, given) if number is not None]
    if len(numbers) == len(given):
        return (NULL, "numbers the rows") if _counts(numbers, len(cells)) else (NUMERICAL, "")
    if len(numbers) >= _MOSTLY * len(given):
        slip = next(cell for cell in given if as_number(cell) is None)
        raise UsageError(
            f"column {name!r} has {len(numbers)} numbers and, among them, {slip!r}; "
            "mend it, or give the column the type categorical or null."
        )
    return _kind_of_texts(given, different, len(cells))


def _counts(numbers: Sequence[float], rows: int) -> bool:
    """Whether they are whole numbers without gaps, each once."""
    if len(numbers) != rows or rows < 2 or max(numbers) - min(numbers) != rows - 1:
        return False
    return len(set(numbers)) == rows and all(number.is_integer() for number in numbers)


def _kind_of_texts(given: Sequence[Any], different: int, rows: int) -> tuple[str, str]:
    words = sum(len(str(cell).split()) for cell in given) / len(given)
    if words >= _WORDS and different > _REPEATED * rows:
        return TEXT, f"is text ({words:.0f} words a cell)"
    if different > len(given) / 2:
        return TEXT, f"has {different} different texts in {len(given)} cells"
    return CATEGORICAL, ""


def require_numbers(name: str, cells: Sequence[Any], where: Sequence[str] | str) -> list[float | None]:
    """The cells of a numerical column, None where missing.

    Raises:
        DataError: one is no finite number; names its place.
    """
    numbers = [None if cell is None else as_number(cell) for cell in cells]
    for row, (cell, number) in enumerate(zip(cells, numbers, strict=True)):
        if cell is not None and number is None:
            place = f"{where} row {row}" if isinstance(where, str) else where[row]
            raise DataError(f"{place} has {name} {cell!r}, not a finite number; mend it or leave the cell empty.")
    return numbers


def settle_kinds(
    cells: Mapping[str, Sequence[Any]], types: Mapping[str, str], remedy: str
) -> tuple[dict[str, str], list[str]]:
    """NUMERICAL or CATEGORICAL for each column that is modelled, and a sentence for each that says nothing.

    Args:
        types: what the person says of some columns. remedy: how to leave a column out, with {name} in it.
    Raises:
        UsageError: a column that cannot be modelled, and is not of type null.
    """
    kinds, notes = {}, []
    for name, column in cells.items():
        kind = check_kind(name, types[name]) if name in types else None
        if kind is None:
            kind, why = find_kind(name, column)
            if kind == TEXT:
                raise UsageError(
                    f"column {name!r} {why}; only numbers and categories are modelled beside images: "
                    f"{remedy.format(name=name)} leaves it out."
                )
            if kind == NULL:
                notes.append(f"column {name!r} {why} and is left out.")
        if kind != NULL:
            kinds[name] = kind
    return kinds, notes
