"""Images in somebody else's HDF5 file: one dataset of images and one of labels, whatever their chunks and filters."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpo.data.format import open_hdf5
from hpo.data.images import BadImage
from hpo.data.listing import Listing, Reference, Source, encode_labels
from hpo.data.manifest import FORMAT
from hpo.errors import DataError, UsageError, nearest

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Hdf5Loader:
    """Reads one row at a time: fancy indexing is the slowest way into HDF5."""

    path: str
    key: str
    layout: str  # NHW, NHWC, NCHW or encoded
    mtime_ns: int

    def load(self, reference: Reference) -> bytes | np.ndarray:
        try:
            value = _open_dataset(self.path, self.key, self.mtime_ns)[reference]
        except (OSError, RuntimeError) as error:  # a damaged chunk
            raise BadImage(f"in the HDF5 file: {str(error).splitlines()[0]}") from None
        if self.layout == "encoded":
            return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
        return value.transpose(1, 2, 0) if self.layout == "NCHW" else value


def image_shape(loader: Hdf5Loader) -> tuple[int, int] | None:
    """(height, width) of the images where they are pixels, None where they are encoded files."""
    if loader.layout == "encoded":
        return None
    with open_hdf5(Path(loader.path)) as file:
        shape = file[loader.key].shape
    return (shape[2], shape[3]) if loader.layout == "NCHW" else (shape[1], shape[2])


@functools.lru_cache(maxsize=1)
def _open_dataset(path: str, key: str, mtime_ns: int) -> h5py.Dataset:
    """Opened once in each process, and open until it ends: opening costs more than reading an image."""
    return open_hdf5(Path(path))[key]


def from_hdf5(path: Path, images_key: str, labels_key: str, task: str | None) -> Source:
    """Lists the images of an HDF5 file.

    Images: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4, or encoded files as
    variable-length uint8, opaque or byte strings (N,). Labels: whole numbers or texts (N,), or numbers (N, K)
    for regression.

    Raises:
        UsageError: no such dataset.
        DataError: datasets of another kind, or of different lengths.
    """
    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            raise UsageError(f"{path} is a shard that prepare.py wrote; it needs no preparing.")
        images, labels = (_dataset(file, key, path) for key in (images_key, labels_key))
        layout = _layout(images, path)
        if labels.ndim not in (1, 2) or len(labels) != len(images):
            raise DataError(
                f"{path}: {len(images)} images in {images_key!r}, labels {labels_key!r} of shape {labels.shape}; "
                "one row of labels for each image is expected."
            )
        columns = _texts(labels)
        count, each = len(images), _typical_bytes(images, layout)
    where = [f"{path} label {i}" for i in range(count)]
    decided, values, names = encode_labels(columns, task, where)
    listing = Listing(range(count), decided, values, names, [None] * count, np.full(count, each, np.int64))
    how = "given" if task else "told from the labels; --task says otherwise"
    notes = (f"task: {decided} ({how}).", f"images: {count} of layout {layout}.")
    options = {"--images-key": images_key, "--labels-key": labels_key}
    loader = Hdf5Loader(str(path.absolute()), images_key, layout, path.stat().st_mtime_ns)
    return Source("hdf5", str(path.absolute()), listing, loader, options, notes)


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    found = file.get(key)
    if isinstance(found, h5py.Dataset):
        return found
    known: list[str] = []
    file.visititems(lambda name, item: known.append(name) if isinstance(item, h5py.Dataset) else None)
    listed = ", ".join(f"{name!r} {file[name].dtype}{list(file[name].shape)}" for name in known[:20])
    raise UsageError(
        f"{path} has no dataset {key!r}; it has {listed or 'none'}.{nearest(key, known)} "
        "See --images-key and --labels-key."
    )


def _layout(images: h5py.Dataset, path: Path) -> str:
    kind, shape = images.dtype, images.shape
    if images.ndim == 1 and (
        h5py.check_vlen_dtype(kind) == np.uint8 or h5py.check_string_dtype(kind) or kind.kind in "SV"
    ):
        return "encoded"
    if kind == np.uint8 and images.ndim == 3:
        return "NHW"
    if kind == np.uint8 and images.ndim == 4 and shape[3] in _CHANNELS:
        return "NHWC"
    if kind == np.uint8 and images.ndim == 4 and shape[1] in _CHANNELS:
        return "NCHW"
    raise DataError(
        f"{path}: dataset {images.name!r} is {kind} of shape {shape}; expected are uint8 pixels (N, H, W), "
        "(N, H, W, C) or (N, C, H, W), or encoded images (N,)."
    )


def _typical_bytes(images: h5py.Dataset, layout: str) -> int:
    """Bytes of an image once encoded: half of its pixels' bytes, or the mean of some that are there."""
    if layout != "encoded":
        return int(np.prod(images.shape[1:])) // 2
    some = range(0, len(images), max(1, len(images) // 64))
    return sum(len(images[i]) if images.dtype.kind != "V" else images.dtype.itemsize for i in some) // max(1, len(some))


def _texts(labels: h5py.Dataset) -> list[list[str]]:
    """The label columns as text, whole numbers without a point: one rule for CSV and HDF5."""
    if h5py.check_string_dtype(labels.dtype):
        values = labels.asstr()[...]
    else:
        values = labels[...]
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind not in "iufOU":
        raise DataError(f"labels {labels.name!r} are {labels.dtype}; numbers or texts are expected.")
    table = values.reshape(len(values), -1)
    return [[str(value) for value in table[:, k].tolist()] for k in range(table.shape[1])]
