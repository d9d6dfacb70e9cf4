"""Images with numbers and categories beside them, through AutoMM's calls: two image columns, gaps in every column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpo import MultiModalPredictor
from hpo.data.manifest import describe
from hpo.data.read import open_split
from hpo.errors import DataError, UsageError
from hpo.layout import read_json
from hpo.predictor.frames import find_roles

SMALL = {  # seconds to train
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "optimization.learning_rate": 5e-3,
    "env.batch_size": 16,
    "env.num_workers": 1,
}

PRICES = {"hat": 10.0, "shoes": 60.0, "pants": 35.0}


def widen(photos):
    """A table that tells more than its photographs: the price of a thing is known, of some not; a second view."""
    random = np.random.default_rng(0)
    prices = np.array([PRICES[name] for name in photos["label"]]) + random.normal(0, 2, len(photos))
    prices[::7] = np.nan
    table = photos.rename(columns={"image": "front"})
    return table.assign(
        back=[None if row % 4 == 0 else path for row, path in enumerate(photos["image"])],
        price=prices,
        brand=[None if row % 5 == 0 else "acme" if row % 2 else "bolt" for row in range(len(photos))],
        shop="one",
    )


@pytest.fixture(scope="module")
def tables(photos):
    table = widen(photos)
    test = table.iloc[::3]
    return table.drop(test.index), test


@pytest.fixture(scope="module")
def of_rows(tables, tmp_path_factory):
    """One trial on a table; a search on one is in tests/launch/test_table_models.py."""
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        predictor = MultiModalPredictor(label="label", path=folder / "run", verbosity=0)
        values = {**SMALL, "optimization.max_epochs": 8, "model.fusion_mlp.hidden_sizes": [32]}
        predictor.fit(tables[0], hyperparameters=values, holdout_frac=0.25)
    return predictor


def test_every_column_is_modelled(of_rows, tables):
    assert [row["state"] for row in of_rows.trials()] == ["completed"]
    assert of_rows.leaderboard()["val_accuracy"][0] <= of_rows.fit_summary()["val_accuracy"]
    assert of_rows.best_config["model.fusion_mlp.hidden_sizes"] == [32]
    scores = of_rows.evaluate(tables[1], metrics=["accuracy", "log_loss"])
    assert scores["accuracy"] > 0.7  # by the photographs alone about 0.6
    chances = of_rows.predict_proba(tables[1])
    assert list(chances.index) == list(tables[1].index)
    assert (chances.idxmax(axis=1) == of_rows.predict(tables[1])).all()
    for column in ("front", "back", "price", "brand"):
        assert not of_rows.predict_proba(tables[1].assign(**{column: None})).equals(chances), column
    pd.testing.assert_frame_equal(of_rows.predict_proba(tables[1].drop(columns=["shop", "label"])), chances)


def test_saved_and_loaded_or_from_csv_it_is_the_same(of_rows, tables, tmp_path):
    of_rows.save(tmp_path / "kept")
    loaded = MultiModalPredictor.load(tmp_path / "kept")
    chances = of_rows.predict_proba(tables[1], as_pandas=False)
    np.testing.assert_array_equal(loaded.predict_proba(tables[1], as_pandas=False), chances)
    tables[1].to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_allclose(loaded.predict_proba(tmp_path / "t.csv", as_pandas=False), chances, atol=1e-6)
    held = tables[1].assign(front=[open(path, "rb").read() for path in tables[1]["front"]])  # noqa: PTH123, SIM115
    np.testing.assert_array_equal(loaded.predict_proba(held, as_pandas=False), chances)


def test_what_a_model_of_rows_cannot_predict_is_said(of_rows, tables, tmp_path):
    with pytest.raises(UsageError, match="has no column 'price'"):
        of_rows.predict(tables[1].drop(columns="price"))
    with pytest.raises(UsageError, match="has no column 'back'"):
        of_rows.predict(tables[1]["front"].tolist())
    with pytest.raises(UsageError, match="holds images alone; name a table with front, back, price, brand"):
        of_rows.predict(tmp_path)
    with pytest.raises(DataError, match="has price 'dear', not a finite number"):
        of_rows.predict(tables[1].assign(price="dear"))
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"data row 0 cannot be read: .*bad.jpg: not an image"):
        of_rows.predict(tables[1].assign(back=str(tmp_path / "bad.jpg")))


def test_shards_of_a_table_are_made_once_by_content(of_rows, tables, tmp_path):
    data = read_json(of_rows._files.sweep.resolved)["data"]
    about = describe(data)
    assert about.splits == {"train": 36, "validation": 12, "test": 0}
    assert about.columns["images"] == ["front", "back"]
    assert [column["name"] for column in about.columns["numerical"]] == ["price"]
    assert [column["categories"] for column in about.columns["categorical"]] == [["acme", "bolt"]]
    assert np.isnan(open_split(data, "train").numbers).any()


def test_prepared_rows_are_fitted_and_judged(of_rows, tables, here):
    """A directory of shards as train_data; then tuning rows, and a second fit from the first one's weights."""
    predictor = MultiModalPredictor(label="label", verbosity=0)
    values = {"optimization.learning_rate": 1e-3, "optimization.max_epochs": 1, "env.batch_size": 16}
    data = read_json(of_rows._files.sweep.resolved)["data"]
    predictor.fit(data, hyperparameters={**SMALL, **values})
    assert 0 <= predictor.evaluate(tables[1])["accuracy"] <= 1
    predictor.fit(tables[0], tuning_data=tables[1], hyperparameters=values, column_types={"brand": "null"})
    assert predictor.best_config["model.timm_image.pretrained"].endswith("model.safetensors")
    about = describe(read_json(predictor._files.sweep.resolved)["data"])
    assert (about.splits["validation"], about.columns["categorical"]) == (24, [])
    assert len(predictor.predict(tables[1].drop(columns="brand"))) == 24


def test_one_image_column_and_nothing_else_stays_a_model_of_images(photos):
    roles, notes = find_roles(photos.assign(shop="one"), "label", None, {}, "t")
    assert (roles.images, roles.kinds, roles.has_table) == (("image",), {}, False)
    assert notes == ["column 'shop' is the same in every row and is left out."]


@pytest.mark.parametrize(
    ("change", "images", "types", "message"),
    [
        ({"note": [f"a red thing of kind {row}" for row in range(72)]}, None, {}, "column 'note' is text"),
        ({"when": pd.Timestamp("2026-11-24")}, None, {}, "column 'when' holds Timestamp"),
        ({}, ("front",), {}, "column 'back' names images too; add it to image_column, or leave it out"),
        ({}, ("frnt",), {}, "has no column 'frnt'. Did you mean 'front'"),
        ({}, None, {"front": "null", "back": "null"}, "has no column of image paths"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_used_are_said(change, images, types, message, photos):
    with pytest.raises(UsageError, match=message):
        find_roles(widen(photos).assign(**change), "label", images, types, "t")


def test_gaps_of_pandas_own_kind_and_arrays_are_no_obstacle(photos):
    table = widen(photos)
    strings = table.assign(brand=table["brand"].astype("string"), back=table["back"].astype("string"))
    assert pd.NA in strings["back"].tolist()
    assert find_roles(strings, "label", None, {}, "t") == find_roles(table, "label", None, {}, "t")
    with pytest.raises(UsageError, match="column 'features' holds ndarray, not numbers or texts"):
        find_roles(table.assign(features=[np.zeros(2)] * len(table)), "label", None, {}, "t")


def test_types_by_the_person_count(photos):
    table = widen(photos).assign(size=[row % 4 for row in range(72)])
    assert find_roles(table, "label", None, {}, "t")[0].kinds == {
        "price": "numerical", "brand": "categorical", "size": "categorical"
    }  # fmt: skip
    said = {"size": "numerical", "back": "null", "brand": "null"}
    roles, _ = find_roles(table, "label", None, said, "t")
    assert (roles.images, roles.kinds) == (("front",), {"price": "numerical", "size": "numerical"})
