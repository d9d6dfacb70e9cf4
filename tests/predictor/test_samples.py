"""Images in every form that people have them in, and shards made of them once, by content."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpo.data.images import ImagePolicy
from hpo.data.read import describe, open_split
from hpo.errors import DataError, UsageError
from hpo.predictor.datasets import default_holdout, materialise
from hpo.predictor.frames import Roles
from hpo.predictor.labels import infer_labels
from hpo.predictor.samples import decoded, is_prepared, read_prepared, read_samples

POLICY = ImagePolicy("jpeg", None, 1024)
ROLES = Roles("label")
SEPARATORS = {"csv": ",", "tsv": "\t", "semicolons": ";", "bars": "|"}


def shards(table, folder, tuning=None, holdout=0.25, seed=0, **options):
    train = read_samples(table, ROLES, "train_data")
    tuning = None if tuning is None else read_samples(tuning, ROLES, "tuning_data")
    labels = options.get("labels") or infer_labels(train.labels, None)
    said = []
    return materialise(train, tuning, labels, holdout, seed, folder, said.append, lambda *_: None), said


@pytest.mark.parametrize("form", ["frame", "csv", "tsv", "semicolons", "bars", "parquet", "mapping", "bytes"])
def test_tables(form, photos, tmp_path):
    table = photos.iloc[:6].set_index(pd.Index(list("abcdef")))
    whole = [np.array(image) for image in decoded(read_samples(table, ROLES), POLICY)]
    given = table
    if form in SEPARATORS:
        given = tmp_path / ("t.tsv" if form == "tsv" else "t.csv")
        table.to_csv(given, index=False, sep=SEPARATORS[form], encoding="utf-8-sig")
    elif form == "parquet":
        given = tmp_path / "t.parquet"
        table.to_parquet(given)
    elif form == "mapping":
        given = {"image": table["image"].tolist(), "label": table["label"].tolist()}
    elif form == "bytes":
        given = table.assign(image=[Path(path).read_bytes() for path in table["image"]])
    samples = read_samples(given, ROLES)
    assert list(samples.labels) == table["label"].tolist()
    assert list(samples.index) == (list("abcdef") if form in ("frame", "parquet", "bytes") else list(range(6)))
    found = list(decoded(samples, POLICY))
    assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))


def test_paths_beside_the_table_or_below_here(photos, here):
    folder = here / "elsewhere"
    folder.mkdir()
    shutil.copyfile(photos["image"][0], here / "~1.jpg")  # nobody's home
    assert len(list(decoded(read_samples(["~1.jpg"], ROLES), POLICY))) == 1
    source = Path(photos["image"][0])
    shutil.copy(source, folder / "a.jpg")
    shutil.copy(source, here / "b.jpg")
    (folder / "t.csv").write_text("image,label\na.jpg,x\nb.jpg,y\n")
    found = read_samples(folder / "t.csv", ROLES).references
    assert found == [str(folder / "a.jpg"), str(here / "b.jpg")]


def test_a_list_of_paths_and_one_path(photos):
    paths = photos["image"].tolist()[:3]
    assert read_samples(paths, ROLES).labels is None
    assert read_samples(paths[0], ROLES).references == paths[:1]


def test_folders_and_zips_keep_their_splits(photos, tmp_path):
    root = Path(photos["image"][0]).parents[1]
    from_folder = read_samples(root, ROLES)
    assert sorted(from_folder.labels) == sorted(photos["label"])
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for split in ("train", "validation"):
            for name in ("hat", "shoes"):
                for path in sorted((root / name).iterdir())[: 4 if split == "train" else 2]:
                    archive.write(path, f"{split}/{name}/{split}{path.name}")
    data, _ = shards(tmp_path / "z.zip", tmp_path)
    assert describe(data).splits == {"train": 8, "validation": 4, "test": 0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.assign(back=t["image"]), UsageError, r"2 image columns \(image, back\); the model takes one"),
        (lambda t: t[["label"]], UsageError, "no column of image paths .* image_column="),
        (lambda t: t.iloc[:0], DataError, "data has no rows"),
        (lambda t: t.assign(image=[*t["image"][:-1], None]), DataError, "data row 5 names no image"),
        (lambda t: t[["image", "label", "label"]], UsageError, "data has several columns 'label'; rename them"),
        (lambda t: t.assign(**{"1": 0}).assign(x=0).rename(columns={"x": 1}), UsageError, "several columns '1'"),
        (lambda t: 3, UsageError, "data must be a DataFrame, a table file.* got int"),
        (lambda t: "nowhere.csv", UsageError, "nowhere.csv does not exist"),
    ],
)
def test_what_cannot_be_used_is_said(change, error, message, photos):
    with pytest.raises(error, match=message):
        read_samples(change(photos.iloc[:6]), ROLES)
    with pytest.raises(UsageError, match="no column 'imge'. Did you mean 'image'"):
        read_samples(photos, Roles("label", ("imge",)))


def test_an_unreadable_image_is_named_by_its_row(photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    table = pd.concat([photos.iloc[:2], pd.DataFrame({"image": [str(tmp_path / "bad.jpg")], "label": ["hat"]})])
    with pytest.raises(DataError, match="data row 2 cannot be read: .*bad.jpg: not an image"):
        list(decoded(read_samples(table, ROLES), POLICY))


def test_made_once_by_content(photos, tmp_path):
    data, said = shards(photos, tmp_path / "data")
    assert said == [f"data {data}: 54 train, 18 validation"]
    assert describe(data).splits == {"train": 54, "validation": 18, "test": 0}
    before = (data / "manifest.json").stat().st_mtime_ns
    again, said = shards(photos, tmp_path / "data")
    assert again == data
    assert "there already" in said[0]
    assert (data / "manifest.json").stat().st_mtime_ns == before

    copy = tmp_path / "copy"  # the same images elsewhere are the same data, held-out rows included
    shutil.copytree(Path(photos["image"][0]).parents[1], copy)
    moved = photos.assign(image=[str(copy / "/".join(Path(path).parts[-2:])) for path in photos["image"]])
    assert shards(moved, tmp_path / "data")[0] == data

    relabelled = photos.assign(label=["shoes", *photos["label"][1:]])
    other = shards(relabelled, tmp_path / "data")[0]
    assert other != data
    Path(moved["image"][0]).write_bytes(Path(moved["image"][30]).read_bytes())
    assert shards(moved, tmp_path / "data")[0] not in (data, other)
    assert len(list((tmp_path / "data").iterdir())) == 3


def test_shards_are_the_same_however_many_threads_make_them(photos, tmp_path, monkeypatch):
    made = []
    for cpus in (1, 3):
        monkeypatch.setattr("hpo.predictor.datasets.available_cpus", lambda cpus=cpus: cpus)
        data, _ = shards(photos, tmp_path / str(cpus))
        made.append([shard["sha256"] for shard in json.loads((data / "manifest.json").read_text())["shards"]])
    assert made[0] == made[1]


def test_tuning_data_are_the_validation_split(photos, tmp_path):
    rows = photos.sample(20, random_state=0)
    data, _ = shards(photos.drop(rows.index), tmp_path, tuning=rows)
    assert describe(data).splits == {"train": 52, "validation": 20, "test": 0}
    names = describe(data).class_names
    kept = [names[label] for label in open_split(data, "validation").labels]
    assert kept == rows["label"].tolist()


def test_unreadable_rows_are_left_out_and_listed(photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    table = photos.assign(image=[str(tmp_path / "bad.jpg"), *photos["image"][1:]])
    data, said = shards(table, tmp_path / "data")
    assert sum(describe(data).splits.values()) == 71
    assert any("1 images cannot be read" in line for line in said)
    assert "bad.jpg" in (data / "skipped.csv").read_text()


def test_holdout():
    assert [default_holdout(rows) for rows in (400, 3000, 4999, 5000, 10**6)] == pytest.approx(
        [0.2, 500 / 3000, 500 / 4999, 0.1, 0.01]
    )
    assert default_holdout(10000) == 0.1
    assert default_holdout(50000) == 0.05


@pytest.mark.parametrize("share", [0, 1, 1.5, "half", True])
def test_a_holdout_that_is_no_share_is_refused(share, photos, tmp_path):
    with pytest.raises(UsageError, match="holdout_frac must lie between 0 and 1"):
        shards(photos, tmp_path, holdout=share)


def test_prepared_directories_are_read_as_they_are(photos, tmp_path):
    data, _ = shards(photos, tmp_path)
    assert is_prepared(data)
    assert is_prepared(str(data))
    assert not is_prepared(tmp_path)
    samples = read_prepared(data, "validation")
    assert len(samples) == 18
    assert set(samples.labels) == {"hat", "shoes", "pants"}
    assert next(decoded(samples, POLICY)).shape[2] == 3
    with pytest.raises(DataError, match="no split 'test'"):
        read_prepared(data, "test")
    source = json.loads((data / "manifest.json").read_text())["source"]
    assert source["options"]["--encoding"] == "jpeg"
