"""Which kind of source a path is."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

from hpo.data.folder_source import from_folder, from_zip
from hpo.data.listing import Source
from hpo.data.manifest import HDF5_ENDINGS
from hpo.data.table_source import TableOptions, from_table
from hpo.errors import DataError, UsageError

_TABLES = (".csv", ".tsv")
_OF_TABLES = {  # our options that are for CSV files -> TableOptions' names
    "image_columns": "images",
    "label_columns": "labels",
    "split_column": "split",
    "columns": "columns",
    "column_types": "types",
}
_SINGULAR = {"image_columns": "image_column", "label_columns": "label_column", "column_types": "column_type"}


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source. `task` None: told from the labels."""

    image_columns: tuple[str, ...] = ("image",)
    label_columns: tuple[str, ...] = ("label",)
    split_column: str | None = None
    columns: tuple[str, ...] = ()
    column_types: tuple[tuple[str, str], ...] = ()
    images_key: str = "images"
    labels_key: str = "labels"
    task: str | None = None


def find_source(path: Path, options: SourceOptions | None = None) -> Source:
    """Lists the images at `path`: a folder or zip file of class folders, a CSV file, or a foreign HDF5 file.

    Raises:
        UsageError: no such path, or options that do not fit it.
        DataError: nothing usable in it.
    """
    options = options or SourceOptions()
    ending = path.suffix.lower()
    if not path.exists():
        raise UsageError(f"{path} does not exist; name a folder, zip, CSV or HDF5 file of images.")
    if ending in _TABLES:
        _require_fitting(path, options, {*_OF_TABLES, "task"})
        chosen = {name: getattr(options, field) for field, name in _OF_TABLES.items()}
        return from_table(path, TableOptions(task=options.task, **chosen))
    if ending in HDF5_ENDINGS:
        _require_fitting(path, options, {"images_key", "labels_key", "task"})
        from hpo.data.hdf5_source import from_hdf5

        return from_hdf5(path, options.images_key, options.labels_key, options.task)
    _require_fitting(path, options, {"task"})
    if options.task == "regression":
        raise UsageError(f"{path} has classes, not numbers; for --task regression give a CSV or HDF5 file.")
    if path.is_dir():
        return from_folder(path)
    if zipfile.is_zipfile(path):
        return from_zip(path)
    raise DataError(
        f"{path} is not a folder, zip, CSV ({', '.join(_TABLES)}) or HDF5 file ({', '.join(HDF5_ENDINGS)})."
    )


def _require_fitting(path: Path, options: SourceOptions, used: set[str]) -> None:
    """An option that this kind of source does not read is a mistake, not to be passed over."""
    for field in fields(options):
        if field.name not in used and getattr(options, field.name) != field.default:
            name = _SINGULAR.get(field.name, field.name).replace("_", "-")
            raise UsageError(f"--{name} does not apply to {path}; leave it out or name another source.")
