"""Folders, zip files, tables and foreign HDF5 as people have them, and what is said when they are not so."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpo.data.decode import decode_rgb
from hpo.data.images import BadImage
from hpo.data.listing import Source
from hpo.data.sources import SourceOptions, find_source
from hpo.errors import DataError, UsageError

Photographs = dict[str, list[bytes]]


def labels_by_name(source: Source) -> dict[str, str]:
    names = source.listing.class_names
    return {
        str(reference): names[label]
        for reference, label in zip(source.listing.references, source.listing.labels, strict=True)
    }


def test_a_folder_of_classes(class_folder: Path, photographs: Photographs) -> None:
    source = find_source(class_folder)
    assert source.listing.class_names == ["hat", "shoes", "t-shirt"]
    assert list(source.listing.references) == sorted(source.listing.references)
    assert set(source.listing.splits) == {None}
    assert source.loader.load("shoes/03.jpg") == photographs["shoes"][3]
    assert labels_by_name(source)["shoes/03.jpg"] == "shoes"


def test_a_folder_of_splits(split_folder: Path) -> None:
    listing = find_source(split_folder).listing
    assert Counter(listing.splits) == {"train": 24, "validation": 6, "test": 6}
    assert listing.class_names == ["hat", "shoes", "t-shirt"]


def test_folders_as_people_keep_them(tmp_path: Path, photographs: Photographs) -> None:
    data = photographs["hat"][0]
    names = [
        "Écharpe d'été/a b.JPG",
        "Écharpe d'été/2023/rom/ü.Jpeg",
        "日本 語/1.png",
        "日本 語/2.tiff",
        "plain/1.webp",
    ]
    ignored = [".cache/x.jpg", "plain/.hidden.jpg", "plain/notes.txt", "loose.jpg", "nothing here/readme.md"]
    for name in (*names, *ignored):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "plain" / "loop").symlink_to(tmp_path, target_is_directory=True)
    source = find_source(tmp_path)
    assert labels_by_name(source) == {name: name.split("/")[0] for name in names}
    assert all(source.loader.load(name) == data for name in names)
    assert any("1 images lie outside" in note for note in source.notes)


def test_a_class_may_be_called_train(tmp_path: Path, photographs: Photographs) -> None:
    for name in ("train", "car", "bus"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(photographs["hat"][0])
    assert find_source(tmp_path).listing.class_names == ["bus", "car", "train"]


def test_a_class_that_is_never_trained_is_told(split_folder: Path, photographs: Photographs) -> None:
    (split_folder / "val" / "scarf").mkdir()
    (split_folder / "val" / "scarf" / "1.jpg").write_bytes(photographs["hat"][0])
    source = find_source(split_folder)
    assert any("no training image of class 'scarf'" in note for note in source.notes)


@pytest.mark.parametrize("around", ["", "clothing-1.0/"])
def test_a_zip_file(tmp_path: Path, photographs: Photographs, around: str) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/train/hat/._0.jpg", b"rubbish")
        for name, files in photographs.items():
            for i, data in enumerate(files):
                archive.writestr(f"{around}{'valid' if i == 0 else 'train'}/{name}/{i}.jpg", data)
    source = find_source(path)
    assert Counter(source.listing.splits) == {"train": 33, "validation": 3}
    assert source.loader.load("train/shoes/4.jpg") == photographs["shoes"][4]


def test_a_damaged_member_of_a_zip_file_is_a_bad_image(tmp_path: Path, photographs: Photographs) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("hat/0.jpg", photographs["hat"][0])
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadImage, match="CRC"):
        find_source(path).loader.load("hat/0.jpg")


@pytest.mark.parametrize("make", ["empty", "flat", "text"])
def test_nothing_usable(tmp_path: Path, photographs: Photographs, make: str) -> None:
    path = tmp_path / "images"
    path.mkdir()
    if make == "flat":
        (path / "1.jpg").write_bytes(photographs["hat"][0])
    if make == "text":
        path = tmp_path / "readme.txt"
        path.write_text("hello")
    with pytest.raises(DataError, match="is not a folder" if make == "text" else "has no images in class folders"):
        find_source(path)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        find_source(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (SourceOptions(image_columns=("file",)), "--image-column"),
        (SourceOptions(columns=("price",)), "--columns"),
        (SourceOptions(column_types=(("price", "null"),)), "--column-type"),
        (SourceOptions(label_columns=("a",)), "--label-column"),
        (SourceOptions(labels_key="y"), "--labels-key"),
        (SourceOptions(task="regression"), "regression"),
    ],
)
def test_options_of_another_kind_of_source(class_folder: Path, options: SourceOptions, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        find_source(class_folder, options)


def test_a_table_of_classes(write_table: Callable[..., Path], photographs: Photographs) -> None:
    path = write_table("label,image", '"hat, old",hat/00.jpg', "shoe,shoes/01.jpg", "shoe,missing.jpg")
    source = find_source(path)
    assert source.listing.class_names == ["hat, old", "shoe"]
    assert source.listing.labels.tolist() == [0, 1, 1]
    assert source.loader.load("hat/00.jpg") == photographs["hat"][0]
    with pytest.raises(BadImage, match="No such file"):
        source.loader.load("missing.jpg")
    assert any("classification" in note for note in source.notes)


def test_numbered_classes_are_in_order_of_number(write_table: Callable[..., Path]) -> None:
    path = write_table("image,label", *(f"hat/00.jpg,{label}" for label in (10, 2, 1)))
    listing = find_source(path).listing
    assert (listing.task, listing.class_names, listing.labels.tolist()) == (
        "classification",
        ["1", "2", "10"],
        [2, 1, 0],
    )


def test_a_table_of_numbers(write_table: Callable[..., Path]) -> None:
    path = write_table("image;price;weight", "hat/00.jpg;1.5;3", "hat/01.jpg;-2;4", name="table.tsv")
    source = find_source(path, SourceOptions(label_columns=("price",)))
    assert source.listing.task == "regression"
    assert source.listing.labels.tolist() == [[1.5], [-2]]
    assert any("regression" in note for note in source.notes)
    both = find_source(path, SourceOptions(label_columns=("price", "weight"))).listing
    assert (both.num_classes, both.labels.tolist()) == (2, [[1.5, 3], [-2, 4]])
    whole = find_source(path, SourceOptions(label_columns=("weight",), task="regression")).listing
    assert whole.labels.tolist() == [[3], [4]]
    classes = find_source(path, SourceOptions(label_columns=("price",), task="classification")).listing
    assert classes.class_names == ["-2", "1.5"]


def test_a_table_of_splits(write_table: Callable[..., Path]) -> None:
    path = write_table("image,label,fold", "hat/00.jpg,a,TRAIN", "hat/01.jpg,a,val", "hat/02.jpg,b,test")
    listing = find_source(path, SourceOptions(split_column="fold")).listing
    assert listing.splits == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("header", "row", "options", "kind", "message"),
    [
        ("image,labels", "hat/00.jpg,a", SourceOptions(), UsageError, "no column 'label'.*Did you mean 'labels'"),
        ("img,label", "hat/00.jpg,a", SourceOptions(), UsageError, "no column 'image'; it has 'img', 'label'"),
        ("image,label", "hat/00.jpg,", SourceOptions(), DataError, "row 2 has no label"),
        ("image,label", "hat/00.jpg", SourceOptions(), DataError, "row 2 has no label"),
        ("image,label", ",a", SourceOptions(), DataError, "row 2 names no image"),
        ("image,label", "hut/00.jpg,a", SourceOptions(), DataError, "none of the 1 images"),
        ("image,label", "hat/00.jpg,a", SourceOptions(task="regression"), DataError, "row 2 has label 'a'"),
        ("image,label", "hat/00.jpg,nan", SourceOptions(task="regression"), DataError, "row 2 has label 'nan'"),
        ("image,label", "hat/00.jpg,NA\nhat/01.jpg,3", SourceOptions(), DataError, "row 2 has label 'NA' where others"),
        ("image,label", "hat/00.jpg,1_5", SourceOptions(task="regression"), DataError, "row 2 has label '1_5'"),
        ("image,label,label", "hat/00.jpg,a,b", SourceOptions(), DataError, "several columns 'label'; rename them"),
        ("image,label,s", "hat/00.jpg,a,tests", SourceOptions(split_column="s"), DataError, "Did you mean 'test'"),
        (
            "image,label,b",
            "hat/00.jpg,a,b",
            SourceOptions(label_columns=("label", "b")),
            UsageError,
            "one label column",
        ),
    ],
)
def test_tables_that_cannot_be_used(
    write_table: Callable[..., Path], header: str, row: str, options: SourceOptions, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        find_source(write_table(header, row), options)


def test_a_table_of_no_rows_or_no_text(write_table: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no rows"):
        find_source(write_table("image,label"))
    path = write_table("image,label", "hat/00.jpg,a")
    path.write_bytes(path.read_bytes() + "hat/01.jpg,été".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        find_source(path)


@pytest.fixture
def pixels(photographs: Photographs) -> np.ndarray:
    """Six photographs as uint8 (6, 80, 80, 3)."""
    return np.stack([decode_rgb(data)[:80, :80] for data in photographs["shoes"][:6]])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "NHWC gzip in chunks of 4"])
def test_hdf5_of_pixels(tmp_path: Path, pixels: np.ndarray, layout: str) -> None:
    values = {"NCHW": pixels.transpose(0, 3, 1, 2), "NHW": pixels[..., 0]}.get(layout, pixels)
    chunks = {"chunks": (4, 40, 40, 3), "compression": "gzip", "shuffle": True} if "gzip" in layout else {}
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file.create_dataset("set/x", data=values, **chunks)
        file["set/y"] = np.array([7, 7, 3, 3, 10, 10], np.uint8)
    source = find_source(tmp_path / "foreign.h5", SourceOptions(images_key="set/x", labels_key="set/y"))
    assert source.listing.class_names == ["3", "7", "10"]
    assert source.listing.labels.tolist() == [1, 1, 0, 0, 2, 2]
    expected = pixels[..., 0] if layout == "NHW" else pixels
    for i in range(6):
        assert (np.asarray(source.loader.load(i)) == expected[i]).all()


@pytest.mark.parametrize("kind", ["vlen", "opaque", "bytes"])
def test_hdf5_of_encoded_images(tmp_path: Path, photographs: Photographs, kind: str) -> None:
    files = photographs["shoes"][:5]
    longest = max(map(len, files))
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        if kind == "vlen":
            images = file.create_dataset("images", 5, h5py.vlen_dtype(np.uint8))
            for i, data in enumerate(files):
                images[i] = np.frombuffer(data, np.uint8)
        else:
            padded = np.array([data.ljust(longest, b"\0") for data in files], f"V{longest}")
            file["images"] = padded if kind == "opaque" else np.array(files)
        file["labels"] = ["red", "blue", "red", "red", "blue"]
    source = find_source(tmp_path / "foreign.hdf5")
    assert source.listing.class_names == ["blue", "red"]
    for i, data in enumerate(files):
        found = source.loader.load(i)
        assert isinstance(found, bytes)
        assert found.rstrip(b"\0") == data
    assert 1000 < source.listing.sizes[0] <= longest


def test_hdf5_of_measurements(tmp_path: Path, pixels: np.ndarray) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["images"] = pixels
        file["labels"] = np.linspace(0, 1, 12).reshape(6, 2)
        file["whole"] = np.arange(6, dtype=np.float32)
    listing = find_source(tmp_path / "foreign.h5").listing
    assert (listing.task, listing.labels.shape) == ("regression", (6, 2))
    whole = find_source(tmp_path / "foreign.h5", SourceOptions(labels_key="whole")).listing
    assert (whole.task, whole.class_names) == ("classification", list("012345"))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (SourceOptions(images_key="image"), UsageError, r"no dataset 'image'; it has .*'images' uint8\[6, 80, 80, 3\]"),
        (SourceOptions(images_key="image"), UsageError, "Did you mean 'images'"),
        (SourceOptions(labels_key="group"), UsageError, "no dataset 'group'"),
        (SourceOptions(images_key="floats"), DataError, "is float32"),
        (SourceOptions(labels_key="gaps"), DataError, "label 2 has label 'nan' where others have numbers"),
        (SourceOptions(labels_key="short"), DataError, "one row of labels for each image"),
    ],
)
def test_hdf5_that_cannot_be_used(
    tmp_path: Path, pixels: np.ndarray, options: SourceOptions, kind: type[Exception], message: str
) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["images"], file["labels"] = pixels, np.arange(6)
        file["floats"], file["short"] = pixels.astype(np.float32), np.arange(5)
        file["gaps"] = np.array([0, 1, np.nan, 1, 0, 1])
        file["group/inside"] = [1]
    with pytest.raises(kind, match=message):
        find_source(tmp_path / "foreign.h5", options)


def test_what_is_no_hdf5(tmp_path: Path) -> None:
    (tmp_path / "foreign.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(DataError, match=re.escape("foreign.h5 cannot be opened as HDF5")):
        find_source(tmp_path / "foreign.h5")
