"""The same photographs in every peer's form: shards, folders of files, tars, variable-length HDF5."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import h5py
import numpy as np

from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import find_source
from hpo.data.write import prepare

SIZES = {"full": 224, "224": 224, "64": 64}  # name of the data -> pixels that a model sees
BATCH, SCALE = 128, (0.08, 1.0)


def make_shards(images: Path, work: Path, name: str) -> Path:
    size = None if name == "full" else int(name)
    prepare(find_source(images), work / f"shards-{name}", Recipe(size=size))
    return work / f"shards-{name}"


def need_shards(images: Path | None, work: Path, name: str) -> None:
    """Makes them of `images`, if they are not there from before."""
    if images and not (work / f"shards-{name}").is_dir():
        make_shards(images, work, name)


def samples(work: Path, name: str, split: str = "train"):
    shards = open_split(work / f"shards-{name}", split)
    for i in range(len(shards)):
        yield shards.read_bytes(i), int(shards.labels[i])


def make_folder(work: Path, name: str) -> Path:
    """split/class/number.jpg, the bytes of the shards."""
    root = work / f"folder-{name}"
    if not root.is_dir():
        for split in ("train", "validation"):
            for number, (data, label) in enumerate(samples(work, name, split)):
                path = root / split / f"{label:02d}" / f"{number:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return root / "train"


def make_tars(work: Path, name: str, count: int = 4) -> str:
    root = work / f"tars-{name}"
    if not root.is_dir():
        root.mkdir()
        tars = [tarfile.open(root / f"{i:03d}.tar", "w") for i in range(count)]  # noqa: SIM115
        for number, (data, label) in enumerate(samples(work, name)):
            for suffix, content in (("jpg", data), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(content)
                tars[number * count // 3068 % count].addfile(member, io.BytesIO(content))
        for tar in tars:
            tar.close()
    return str(root / f"{{000..{count - 1:03d}}}.tar")


def make_vlen(work: Path, name: str) -> Path:
    path = work / f"vlen-{name}.h5"
    if not path.is_file():
        with h5py.File(path, "w") as file:
            pairs = [(np.frombuffer(data, np.uint8), label) for data, label in samples(work, name)]
            found, labels = zip(*pairs, strict=True)
            file["labels"] = labels
            dataset = file.create_dataset("images", (len(found),), h5py.vlen_dtype(np.uint8))
            for i, data in enumerate(found):
                dataset[i] = data
    return path
