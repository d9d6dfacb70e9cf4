"""launch/predict.py and launch/evaluate.py with a really trained and exported model."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpo.data.images import AS_IT_IS, ImagePolicy
from hpo.data.plan import Recipe
from hpo.data.sources import SourceOptions, find_source
from hpo.data.split import Shares
from hpo.data.write import prepare
from hpo.export.images import open_labelled
from hpo.export.scores import bootstrap, regression_scores, wilson
from hpo.export.source import table_columns
from hpo.results.read import open_results, read_results
from launch.evaluate import main as evaluate_main
from launch.export import main as export_main
from launch.predict import main as predict_main


@pytest.fixture
def model(trained_sweep: Path, exported: dict[str, tuple[Path, str]]) -> Path:
    """The best trial's."""
    best = read_results(open_results(trained_sweep)).best
    assert best is not None
    return exported[best.trial][0]


@pytest.fixture(scope="module")
def number_model(trained_regression: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "numbers"
    assert export_main([str(trained_regression), "--out", str(folder)]) == 0
    return folder


Call = Callable[..., tuple[int, str, str]]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_photographs_get_the_predictions_of_the_validation(
    model: Path, trained_sweep: Path, photos: Path, call: Call
) -> None:
    """The same files that the shards were made of, from disk: as many right as the search had counted."""
    code, output, _ = call(evaluate_main, model, trained_sweep.parent / "data", "--split", "validation", "--json")
    assert code == 0
    best = read_results(open_results(trained_sweep)).best
    assert best is not None
    assert json.loads(output)["metrics"]["accuracy"]["value"] == pytest.approx(best.value)
    whole = json.loads(call(evaluate_main, model, photos, "--json")[1])
    parts = [json.loads(call(evaluate_main, model, trained_sweep.parent / "data", "--split", split, "--json")[1])
             for split in ("train", "validation", "test")]  # fmt: skip
    assert whole["images"] == sum(part["images"] for part in parts) == 72
    assert np.array_equal(whole["confusion"], sum(np.array(part["confusion"]) for part in parts))


def test_a_table_is_read_as_the_models_own_was(photos: Path, tmp_path: Path) -> None:
    """By its names of columns, and as classes though they look like numbers."""
    rows = [f"{photos / name / '001.jpg'},{grade}" for name, grade in (("hat", 1.5), ("pants", 2.5), ("shoes", 1.5))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["photo,grade", *rows]) + "\n", encoding="utf-8")
    options = SourceOptions(("photo",), ("grade",), task="classification")
    prepare(find_source(table, options), tmp_path / "data", Recipe(shares=Shares(0, 0)))
    meta = {"task": "classification", "class_names": ["1.5", "2.5"], **table_columns(tmp_path / "data")}
    images = open_labelled(table, None, meta, ImagePolicy("jpeg", None, None))
    assert images.labels.tolist() == [0, 1, 0]
    assert np.array_equal(images.load(1), open_labelled(tmp_path / "data", "train", meta, AS_IT_IS).load(1))


def test_a_row_for_each_image(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    code, output, _ = call(predict_main, model, photos / "hat", photos / "shoes" / "001.jpg")
    rows = rows_of(output)
    assert code == 0
    assert list(rows[0]) == ["image", "prediction", "probability", "hat", "pants", "shoes"]
    assert [row["image"] for row in rows[-2:]] == [str(photos / "hat" / "024.jpg"), str(photos / "shoes" / "001.jpg")]
    for row in rows:
        shares = {name: float(row[name]) for name in ("hat", "pants", "shoes")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(shares, key=lambda name: shares[name])
    out = tmp_path / "predictions.csv"
    assert call(predict_main, model, photos / "hat", "--out", out, "--top", "2")[0] == 0
    short = rows_of(out.read_text())
    assert list(short[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row["class_1"] for row in short] == [row["prediction"] for row in rows[:-1]]


def test_an_unreadable_image_is_named_and_keeps_its_row(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    shutil.copy(photos / "hat" / "001.jpg", tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((photos / "hat" / "002.jpg").read_bytes()[:300])
    shutil.copy(photos / "hat" / "003.jpg", tmp_path / "c.jpg")
    code, output, errors = call(predict_main, model, tmp_path)
    assert code == 3
    assert [bool(row["prediction"]) for row in rows_of(output)] == [True, False, True]
    assert f"{tmp_path / 'b.jpg'} cannot be read" in errors
    assert "1 of 3 images could not be read" in errors.splitlines()[-1]


def test_mistakes_are_told_on_one_line(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    for arguments, message in (
        ((predict_main, tmp_path, photos), "is not an exported model"),
        ((predict_main, model, tmp_path / "nothing"), "does not exist"),
        ((predict_main, model, tmp_path), "holds no images"),
        ((evaluate_main, model, tmp_path / "nothing"), "does not exist"),
        ((evaluate_main, model, photos, "--split", "test"), "has no split 'test'"),
    ):
        code, output, errors = call(*arguments)
        assert (code, output) == (2, ""), message
        assert message in errors
        assert errors.count("\n") == 1


def test_strange_classes_are_refused(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    for name in ("hat", "shoe"):
        shutil.copytree(photos / "hat", tmp_path / name)
    code, _, errors = call(evaluate_main, model, tmp_path)
    assert code == 3
    assert "has class 'shoe'" in errors
    assert "Did you mean 'shoes'?" in errors


def test_fewer_classes_keep_their_meaning(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    """A folder with shoes and pants only: their numbers there are not those of the model."""
    for name in ("pants", "shoes"):
        shutil.copytree(photos / name, tmp_path / "some" / name)
    few = json.loads(call(evaluate_main, model, tmp_path / "some", "--json")[1])
    whole = json.loads(call(evaluate_main, model, photos, "--json")[1])
    assert few["confusion"][0] == [0, 0, 0]
    assert few["confusion"][1:] == whole["confusion"][1:]
    assert few["classes"][0]["recall"] is None


def test_the_report_in_words_and_the_confusion_matrix(model: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    code, output, _ = call(evaluate_main, model, photos, "--confusion", tmp_path / "confusion.csv")
    assert code == 0
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert len(lines["accuracy"]) == 5
    assert lines["hat"][0] == "hat"
    table = rows_of((tmp_path / "confusion.csv").read_text())
    assert [row["truth"] for row in table] == ["hat", "pants", "shoes"]
    assert [sum(int(row[name]) for name in ("hat", "pants", "shoes")) for row in table] == [24, 24, 24]


def test_numbers_come_in_the_units_of_the_labels(
    number_model: Path, trained_regression: Path, photos: Path, call: Call
) -> None:
    data = trained_regression.parent / "data"
    report = json.loads(call(evaluate_main, number_model, data, "--split", "validation", "--json")[1])
    best = read_results(open_results(trained_regression)).best
    assert best is not None
    code, output, _ = call(predict_main, number_model, photos / "hat")
    assert code == 0
    rows = rows_of(output)
    assert list(rows[0]) == ["image", "value_0", "value_1"]
    assert 20 < np.mean([float(row["value_0"]) for row in rows]) < 250  # brightness, not a standardised number
    assert report["metrics"]["mae"]["value"] == pytest.approx(best.metrics["val_mae"], rel=1e-4)
    assert call(predict_main, number_model, photos, "--top", "2")[0] == 2
    assert call(evaluate_main, number_model, photos)[0] == 3


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    for hits, total, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        found = wilson(hits, total)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_the_bootstrap_covers_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap(lambda targets, outputs: float(outputs.mean()), np.zeros(400), values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1 * half)


def test_scores_of_several_columns_are_means() -> None:
    targets = np.array([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0]])
    found = regression_scores(targets, targets + [[1.0, 3.0]])
    assert found["mae"].value == pytest.approx(2.0)
    assert found["rmse"].value == pytest.approx(2.0)
