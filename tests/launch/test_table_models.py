"""A sweep on a table, whole: prepare.py, trials, results, export.py, predict.py, evaluate.py, retrain's test."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo.data.rows import open_table
from hpo.export.model import ExportedModel
from hpo.export.testing import score_on_test
from hpo.layout import SweepDirectory
from hpo.results.read import open_results, read_results
from launch.evaluate import main as evaluate_main
from launch.export import main as export_main
from launch.predict import main as predict_main

HEADER = ["photo", "detail", "kind", "pieces", "shade", "note"]
COLUMNS = ("--image-column", "photo", "--image-column", "detail", "--label-column", "kind",
           "--columns", "pieces", "shade", "--column-type", "pieces=numerical")  # fmt: skip


def write_table(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    return path


@pytest.fixture(scope="module")
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 rows; pieces and shade say what the kind is, but for their gaps."""
    rows = []
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        kind = path.parent.name
        detail = path if number % 3 else ""
        pieces = "" if number % 4 == 0 else {"hat": 1, "pants": 2, "shoes": 9}[kind] + number % 2
        shade = "" if number % 5 == 0 else {"hat": "red", "pants": "blue", "shoes": "blue"}[kind]
        rows.append([path if number % 8 else "", detail, kind, pieces, shade, f"a note on row {number}"])
    return write_table(tmp_path_factory.mktemp("table") / "table.csv", rows)


@pytest.fixture(scope="module")
def sweep(table: Path, train_sweep: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sweep(tmp_path_factory.mktemp("tables"), table, *COLUMNS, metric="accuracy", trials=2)


@pytest.fixture(scope="module")
def model(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export_main([str(sweep), "--out", str(folder)]) == 0
    return folder


Call = Callable[..., tuple[int, str, str]]


def test_it_says_what_timm_cannot_hold(sweep: Path, tmp_path: Path, call: Call) -> None:
    code, _, said = call(export_main, sweep, "--out", tmp_path / "model")
    assert code == 0
    assert "takes a table (pieces, shade), which timm's form cannot hold" in said
    assert "opened again, on 6 validation rows: outputs within" in said
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md", "model.safetensors", "slurmtune.json"]  # fmt: skip
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| pieces | numerical | mean" in card
    assert "| shade | categorical | 2: blue, red |" in card
    code, _, said = call(export_main, sweep, "--out", tmp_path / "graph", "--also", "torch-export")
    assert code == 2
    assert "--also torch-export is for models of images alone" in said
    assert not (tmp_path / "graph").exists()


def test_a_copy_without_data_is_compared_on_made_up_rows(sweep: Path, tmp_path: Path, call: Call) -> None:
    code, _, said = call(export_main, sweep, "--out", tmp_path / "model", "--data", tmp_path / "nowhere")
    assert code == 0, said
    assert "32 made-up rows" in said


def test_the_same_rows_from_shards_and_from_the_table(model: Path, sweep: Path, table: Path, call: Call) -> None:
    data = sweep.parent / "data"
    best = read_results(open_results(sweep)).best
    assert best is not None
    parts = []
    for split in ("train", "validation", "test"):
        code, output, said = call(evaluate_main, model, data, "--split", split, "--json")
        assert code == 0, said
        parts.append(json.loads(output))
    assert parts[1]["metrics"]["accuracy"]["value"] == pytest.approx(best.value)
    code, output, said = call(evaluate_main, model, table, "--json")
    assert code == 0, said
    whole = json.loads(output)
    assert whole["images"] == sum(part["images"] for part in parts) == 72
    assert np.array_equal(whole["confusion"], sum(np.array(part["confusion"]) for part in parts))
    tested = score_on_test(SweepDirectory(sweep), best.params)
    assert tested["accuracy"] == pytest.approx(parts[2]["metrics"]["accuracy"]["value"])


def test_a_row_for_each_row(model: Path, table: Path, call: Call) -> None:
    code, output, said = call(predict_main, model, table)
    assert code == 0, said
    rows = list(csv.DictReader(io.StringIO(output)))
    assert list(rows[0]) == ["photo", "detail", "prediction", "probability", "hat", "pants", "shoes"]
    with table.open() as stream:
        given = list(csv.DictReader(stream))
    assert [(row["photo"], row["detail"]) for row in rows] == [(row["photo"], row["detail"]) for row in given]
    right = sum(row["prediction"] == truth["kind"] for row, truth in zip(rows, given, strict=True))
    assert right > len(rows) / 2  # after two epochs
    reopened = ExportedModel(model)
    assert reopened.table is not None
    opened, _ = open_table(table, reopened.table, reopened.policy)
    [answer] = reopened.predict([opened.load(5)])
    assert float(rows[5][reopened.columns[0]]) == pytest.approx(answer[0], rel=1e-4)


def test_new_rows_with_gaps_and_strangers(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    hat = photos / "hat" / "001.jpg"
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    rows = [
        [hat, "", "", 1, "red", ""],
        ["", "", "", "", "", ""],
        [hat, hat, "", 1e12, "violet", ""],
        ["broken.jpg", "", "", 1, "red", ""],
    ]
    code, output, said = call(predict_main, model, write_table(tmp_path / "new.csv", rows))
    assert code == 3
    assert "broken.jpg: not an image" in said
    found = list(csv.DictReader(io.StringIO(output)))
    assert found[3]["prediction"] in ("", None)
    for row in found[:3]:
        assert sum(float(row[name]) for name in ("hat", "pants", "shoes")) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("main", "given", "said"),
    [
        (predict_main, "photos", "takes rows of a table; name a CSV file with photo, detail, pieces, shade"),
        (evaluate_main, "photos", "takes rows of a table"),
        (predict_main, "lacking", "no column 'shade', which the model takes. Did you mean 'shape'?"),
        (evaluate_main, "lacking", "no column 'shade'"),
        (predict_main, "wrong", "row 1 has pieces 'many', not a finite number"),
    ],
)
def test_refused_by_name(main: Any, given: str, said: str, model: Path, photos: Path, table: Path, tmp_path: Path,
                         call: Call) -> None:  # fmt: skip
    place = photos
    if given != "photos":
        hat = photos / "hat" / "001.jpg"
        place = write_table(tmp_path / "t.csv", [[hat, "", "hat", 1, "red", ""], [hat, "", "hat", "many", "red", ""]])
        if given == "lacking":
            place.write_text(place.read_text().replace("shade", "shape"))
    code, _, errors = call(main, model, place)
    assert code in (2, 3)
    assert said in errors
    assert "Traceback" not in errors
