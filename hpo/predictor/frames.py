"""The columns of a person's table: which is the label, which hold images, what the others are; and its rows by them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.data.cells import IMAGE, check_kind, clean, settle_kinds
from hpo.data.columns import Columns
from hpo.data.folder_source import EXTENSIONS
from hpo.data.listing import NO_IMAGE, Reference
from hpo.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".tsv", ".parquet", ".pq")
_LOOKED_AT = 50  # values of a column, to tell whether it names images
_REMEDY = "column_types={{'{name}': 'null'}}"


@dataclass(frozen=True)
class Roles:
    """What a table's columns are for. `images`: those that hold images, at least one; None: the one that is found by
    its content, of several the `usual`. `kinds`: numerical or categorical for each further column that is modelled;
    others are not looked at."""

    label: str | None
    images: tuple[str, ...] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    usual: str = ""

    @property
    def has_table(self) -> bool:
        return bool(self.kinds) or len(self.images or ()) > 1

    @classmethod
    def of_model(cls, label: str, columns: Columns | None, image: str | None, usual: str) -> Roles:
        """Those of a model: `columns` as it was trained with them, None for images alone; then `image` is the column
        that the person named, `usual` the one that training had."""
        if columns is None:
            return cls(label, (image,) if image else None, usual=usual)
        return cls(label, columns.images, dict.fromkeys(columns.names, ""))


def find_roles(
    frame: pd.DataFrame, label: str, images: Sequence[str] | None, types: Mapping[str, str], what: str
) -> tuple[Roles, list[str]]:
    """The roles in a table to train on, and a sentence for each column that says nothing.

    Args:
        images: the person's image columns, None to find them; types: what the person says of some columns.
    Raises:
        UsageError: a column that is not there, or cannot be modelled and was not left out.
    """
    names = list(frame.columns)
    for name in (label, *(images or ()), *types):
        _require(name, names, what)
    if label in types:
        raise UsageError(f"column_types names the label {label!r}; what it is, problem_type says.")
    said = {name: check_kind(name, kind) for name, kind in types.items()}
    looking = [name for name in names if name != label and name not in said and names_images(frame[name])]
    stray = next((name for name in looking if images is not None and name not in images), None)
    if stray:
        raise UsageError(
            f"{what}: column {stray!r} names images too; add it to image_column, or leave it out by "
            f"{_REMEDY.format(name=stray)}."
        )
    chosen = [n for n in names if n in (looking if images is None else images) or said.get(n) == IMAGE]
    if not chosen:
        raise _no_images(names, what)
    others = {name: cells_of(frame[name]) for name in names if name != label and name not in chosen}
    kinds, notes = settle_kinds(others, {name: kind for name, kind in said.items() if name in others}, _REMEDY)
    return Roles(label, tuple(chosen), kinds), notes


def find_image_column(frame: pd.DataFrame, label: str | None, usual: str, what: str) -> str:
    """The column of a table that names images; of several the `usual` one.

    Raises:
        UsageError: none does, or several do.
    """
    found = [name for name in frame.columns if name != label and names_images(frame[name])]
    if not found:
        raise _no_images(list(frame.columns), what)
    if usual in found:
        return usual
    if len(found) > 1:
        raise UsageError(f"{what} has {len(found)} image columns ({', '.join(found)}); the model takes one, pass that.")
    return str(found[0])


def names_images(column: Any) -> bool:
    """Whether its first cells hold images, or paths of them."""
    values = [value for value in cells_of(column.head(_LOOKED_AT)) if value is not None]
    return bool(values) and all(
        isinstance(value, (bytes, bytearray))
        or (isinstance(value, (str, os.PathLike)) and str(value).lower().endswith(EXTENSIONS))
        for value in values
    )


def cells_of(column: Any) -> list[Any]:
    return [clean(value) for value in column.tolist()]


def image_references(
    frame: pd.DataFrame, columns: Sequence[str], what: str, base: Path, gaps: bool
) -> tuple[list[list[Reference]], list[bytes]]:
    """For each image column a reference in each row: a path, or the place of an image that the table itself holds, in
    the list that comes second. Paths are relative to `base` if they are there, else to the current directory.

    Args:
        gaps: whether an image may be missing.
    Raises:
        DataError: one is missing and may not be, or is neither path nor bytes.
    """
    held: list[bytes] = []
    return [[_refer(value, held, f"{what} row {row}", base, gaps) for row, value in enumerate(frame[name].tolist())]
            for name in columns], held  # fmt: skip


def _refer(value: Any, held: list[bytes], where: str, base: Path, gaps: bool) -> Reference:
    if isinstance(value, (bytes, bytearray)):
        held.append(bytes(value))
        return len(held) - 1
    if gaps and clean(value) is None:
        return NO_IMAGE
    if not isinstance(value, (str, os.PathLike)):
        raise DataError(f"{where} names no image ({value!r}); complete it or remove the row.")
    expanded = Path(value)
    with contextlib.suppress(RuntimeError):  # of a name such as ~1.jpg, which is nobody's home
        expanded = expanded.expanduser()
    beside = base / expanded
    return str(beside.absolute() if beside.exists() else expanded.absolute())


def require_columns(frame: pd.DataFrame, roles: Roles, what: str) -> None:
    """Raises UsageError where a column that the roles name is not there; the label may be missing."""
    for name in (*(roles.images or ()), *roles.kinds):
        _require(name, list(frame.columns), what)


def _require(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise UsageError(f"{what} has no column {name!r}.{nearest(name, names)} It has {', '.join(names)}.")


def _no_images(names: Sequence[str], what: str) -> UsageError:
    return UsageError(
        f"{what} has no column of image paths (*.jpg, *.png) among {', '.join(names)}; name it by image_column=."
    )
