"""Rows of a table beside the images: kinds of columns, statistics, shards and back, missing values and images."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpo.data.cells import as_category, clean, find_kind
from hpo.data.check import check
from hpo.data.columns import MISSING, UNKNOWN, Columns, fit_columns
from hpo.data.manifest import describe, read_manifest
from hpo.data.pictures import Pictures
from hpo.data.plan import Recipe
from hpo.data.read import open_split
from hpo.data.sources import SourceOptions, find_source
from hpo.data.write import prepare
from hpo.errors import DataError, SlurmtuneError, UsageError

WORDS = ("red", "green", "blue", "black")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([i * 0.5 for i in range(40)], "numerical"),
        ([str(i * 7) for i in range(40)], "numerical"),
        ([None if i % 3 else i * 0.5 for i in range(90)], "numerical"),
        ([WORDS[i % 4] for i in range(60)], "categorical"),
        ([i % 4 for i in range(60)], "categorical"),  # as AutoMM: few different values
        ([bool(i % 2) for i in range(8)], "categorical"),
        ([f"{10 * (i % 30)}_{10 * (i % 30) + 10}" for i in range(90)], "categorical"),  # Python reads 10_20 as 1020
        ([f"brand {i % 30}" for i in range(90)], "categorical"),
        ([None if i % 2 else "yes" for i in range(60)], "categorical"),  # given or not says something
        ([f"a rather long category {i % 3}" for i in range(900)], "categorical"),
        (["same"] * 40, "null"),
        ([None] * 40, "null"),
        (list(range(40)), "null"),  # an index
        ([f"words that describe row {i}" for i in range(40)], "text"),
        ([f"id-{i}" for i in range(40)], "text"),
    ],
)
def test_what_a_column_is(cells: list[object], kind: str) -> None:
    assert find_kind("x", cells)[0] == kind


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([*map(str, range(7, 106)), "old"], "'old'"),
        ([datetime.date(2026, 1, 1)] * 3, "date"),
        ([[1, 2], [3]], "list"),
    ],
)
def test_what_no_column_may_be(cells: list[object], said: str) -> None:
    with pytest.raises(UsageError, match=f"column 'x'.*{said}"):
        find_kind("x", cells)


def test_one_cell_is_the_same_from_everywhere() -> None:
    assert {as_category(clean(value)) for value in (3, 3.0, "3", " 3 ", "3.0", np.int64(3), np.float32(3))} == {"3"}
    assert {as_category(clean(value)) for value in (True, "true", "True", np.bool_(True))} == {"True"}
    assert as_category("007") == "007"
    assert as_category("10_20") != as_category("1020")
    assert all(clean(value) is None for value in (None, "", " ", "NA", "nan", math.nan, np.float64("nan")))


CELLS = {"price": [1.0, 3.0, None, 100.0], "kind": ["a", None, "b", "c"]}


def test_statistics_are_the_training_splits() -> None:
    columns = fit_columns(
        ["image"], {"price": "numerical", "kind": "categorical"}, CELLS, np.array([1, 1, 1, 0], bool), "t"
    )
    assert [(n.name, n.mean, n.std) for n in columns.numerical] == [("price", 2.0, 1.0)]
    assert [(c.categories, c.counts) for c in columns.categorical] == [(("a", "b"), (1, 1))]
    numbers, codes = columns.numbers(CELLS, 4, "t"), columns.codes(CELLS, 4, "t")
    np.testing.assert_array_equal(numbers[:, 0], [1, 3, np.nan, 100])
    assert codes[:, 0].tolist() == [2, MISSING, 3, UNKNOWN]
    assert Columns.from_json(columns.to_json()) == columns
    back = columns.cells(numbers, codes)
    assert back["price"] == CELLS["price"]
    np.testing.assert_array_equal(columns.codes(back, 4, "t"), codes)
    with pytest.raises(DataError, match="no column 'kind'"):
        columns.codes({"kinds": ["a"]}, 1, "t")
    with pytest.raises(DataError, match="t row 0 has price 'much'"):
        columns.numbers({"price": ["much"]}, 1, "t")


@pytest.fixture
def table(write_table: Callable[..., Path]) -> Path:
    """36 rows: two image columns with gaps, numbers and categories with gaps; the row number is in the price."""
    rows, number = [], 0
    for label in ("hat", "shoes", "t-shirt"):
        for i in range(12):
            back = "" if i % 4 == 0 else f"{label}/{(i + 1) % 12:02d}.jpg"
            front = "" if i == 5 else f"{label}/{i:02d}.jpg"
            price = "" if i == 3 else f"{number + 0.5}"
            rows.append(f"{front},{back},{label},{price},{WORDS[number % 3]},row {number} of the table")
            number += 1
    return write_table("front,back,label,price,colour,note", *rows)


OPTIONS = SourceOptions(
    image_columns=("front", "back"), columns=("all",), column_types=(("note", "null"), ("colour", "categorical"))
)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(encoding="raw", size=24)], ids=["jpeg", "raw"])
def test_through_shards_and_back(table: Path, tmp_path: Path, recipe: Recipe) -> None:
    out = tmp_path / "data"
    source = find_source(table, OPTIONS)
    summary = prepare(source, out, recipe)
    assert read_manifest(out).format_version == 2
    assert summary.columns is not None
    assert summary.columns["images"] == ["front", "back"]
    assert check(out, 1) == []
    seen = 0
    for split in ("train", "validation", "test"):
        shards = open_split(out, split)
        pictures = Pictures(shards)
        assert shards.columns is not None
        cells = shards.columns.cells(shards.numbers, shards.codes)
        for i, number in enumerate(shards.sample_ids.tolist()):
            seen += 1
            own = number % 12
            assert cells["price"][i] == (None if own == 3 else number + 0.5)
            assert cells["colour"][i] == WORDS[number % 3]
            assert pictures.present[i].tolist() == [own != 5, own % 4 != 0]
            for column, name in enumerate(("front", "back")):
                if pictures.present[i, column]:
                    stored = pictures.read_bytes(2 * i + column)
                    assert stored == ShardOf(source, recipe).image(number, name)
        if recipe.encoding == "raw":
            rows = np.arange(len(shards))[::-1]
            numbers = pictures.numbers(rows)
            pixels = np.empty((len(numbers), 24, 24, 3), np.uint8)
            pictures.gather(numbers, pixels)
            assert [image.tobytes() for image in pixels] == [pictures.read_bytes(int(n)) for n in numbers]
    assert seen == 36
    assert sum(describe(out).splits.values()) == 36


class ShardOf:
    """An image as images.store gives it."""

    def __init__(self, source, recipe) -> None:  # type: ignore[no-untyped-def]
        self.source, self.recipe = source, recipe

    def image(self, number: int, column: str) -> bytes:
        from hpo.data.images import store

        listing = self.source.listing
        references = listing.references if column == "front" else listing.table.further[0]
        return store(self.source.loader.load(references[number]), self.recipe.policy)[0]


def test_the_fingerprint_knows_the_cells(table: Path, tmp_path: Path) -> None:
    first = prepare(find_source(table, OPTIONS), tmp_path / "a", Recipe())
    again = prepare(find_source(table, OPTIONS), tmp_path / "b", Recipe(shard_mib=1), workers=2)
    assert first.fingerprint == again.fingerprint
    table.write_text(table.read_text().replace(",0.5,", ",0.25,"))
    changed = find_source(table, OPTIONS)
    assert prepare(changed, tmp_path / "c", Recipe()).fingerprint != first.fingerprint
    with pytest.raises(UsageError, match="differs"):
        prepare(changed, tmp_path / "a", Recipe())


def test_an_image_that_cannot_be_read_costs_its_row(table: Path, tmp_path: Path) -> None:
    (table.parent / "hat" / "02.jpg").write_bytes(b"nothing")
    summary = prepare(find_source(table, OPTIONS), tmp_path / "data", Recipe())
    assert summary.skipped == 2  # once in front, once behind
    listed = (tmp_path / "data" / "skipped.csv").read_text()
    assert listed.count("hat/02.jpg: not an image") == 2


def test_damage_is_found(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(find_source(table, OPTIONS), out, Recipe())
    [record] = [shard for shard in read_manifest(out).shards if shard.split == "train"]
    offset = record.data_offset["categories"]
    assert offset is not None
    with (out / record.path).open("r+b") as file:
        file.seek(offset)
        file.write(b"\x63")
    with pytest.raises(DataError, match="sample 0 has categories"):
        open_split(out, "train")
    assert any("categories" in str(damage) for damage in check(out, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SourceOptions(image_columns=("front", "back"), columns=("all",)), "'note' is text"),
        (SourceOptions(image_columns=("front",), columns=("prise",)), "'price'"),
        (SourceOptions(image_columns=("front",), columns=("front",)), "named twice"),
        (
            SourceOptions(image_columns=("front",), columns=("price",), column_types=(("note", "null"),)),
            "none of",
        ),
        (SourceOptions(image_columns=("front",), columns=("price",), column_types=(("price", "nul"),)), "'null'"),
        (SourceOptions(image_columns=("front",), columns=("note",), column_types=(("note", "text"),)), "not modelled"),
        (SourceOptions(image_columns=("front",), columns=("colour",), column_types=(("colour", "numerical"),)), "red"),
        (SourceOptions(image_columns=("front",)), "names no image"),
    ],
)
def test_refused_by_name(table: Path, tmp_path: Path, options: SourceOptions, said: str) -> None:
    with pytest.raises(SlurmtuneError, match=said):
        prepare(find_source(table, options), tmp_path / "data", Recipe())


def test_columns_that_are_not_asked_for_are_named(table: Path) -> None:
    table.write_text(table.read_text().replace("\n,", "\nhat/00.jpg,"))
    notes = " ".join(find_source(table, SourceOptions(image_columns=("front",))).notes)
    assert "not modelled: 'back', 'price', 'colour', 'note'" in notes
