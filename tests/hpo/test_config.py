"""A sweep file: read, checked, and refused on one line that names the nearest valid word."""

from __future__ import annotations

import json

import pytest

from hpo.config import SweepConfig, load_sweep
from hpo.errors import DataError, SlurmtuneError, UsageError

GOOD = """
data: bundled:clothing
hyperparameters:
  optimization.learning_rate: {loguniform: [3e-4, 3e-2]}
  model.timm_image.checkpoint_name: {choice: [resnet18, vit_tiny_patch16_224.augreg_in21k]}
  optimization.max_epochs: "10"
hyperparameter_tune_kwargs: {searcher: bayes, scheduler: asha, num_trials: 7, resources_per_trial: {num_gpus: 0.5}}
slurm: {partition: gpu, time: 12:30:00}
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, overrides, tmp_path / "runs")


def test_a_good_file_gives_its_values_and_survives_json(tmp_path):
    config = load(tmp_path, GOOD)
    assert (config.name, config.metric, config.mode) == ("sweep", "val_accuracy", "max")
    assert config.max_epochs == 10
    assert config.tune.scheduler == "ASHA"
    assert config.tune.gpus_per_trial == 0.5
    assert config.slurm["time"] == "12:30:00"  # not 45000, as YAML 1.1 reads it
    again = SweepConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert (again.space, again.tune, again.metric) == (config.space, config.tune, config.metric)


def test_overrides_replace_either_spelling(tmp_path):
    config = load(tmp_path, GOOD, "optim.lr=0.01", "num_trials=3", "seed=5", "optimization.max_epochs=2")
    assert config.space.constants["optim.lr"] == 0.01
    assert [d.key for d in config.space.dimensions] == ["model.timm_image.checkpoint_name"]
    assert (config.tune.num_trials, config.seed, config.max_epochs) == (3, 5, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data: bundled:clothing", "dta: x", "unknown key dta. Did you mean 'data'"),
        ("data: bundled:clothing", "", "'data' must name"),
        ("bundled:clothing", "bundled:shoes", "is not bundled"),
        ("resnet18", "resnet19", "no model 'resnet19'. Did you mean"),
        ("resnet18", "resnet18.a9_in1k", "Did you mean"),
        ("searcher: bayes", "searcher: bayse", "Did you mean 'bayes'"),
        ("num_trials: 7", "num_trials: many", "whole number"),
        ("num_trials: 7", "num_trails: 7", "Did you mean 'num_trials'"),
        ("num_trials: 7", "num_trials: 0", "at least 1"),
        ("{num_gpus: 0.5}", "{num_gpus: 1.5}", "fraction below 1"),
        ("{num_gpus: 0.5}", "{num_gpus: 4, num_processes: 2}", "num_processes is 2 and num_gpus 4"),
        ("{num_gpus: 0.5}", "{num_processes: 0}", "num_processes must be"),
        ("partition: gpu", "partitoin: gpu", "Did you mean 'partition'"),
        ('"10"', '"ten"', "must be a number"),
        ("data: bundled:clothing", "data: bundled:clothing\nmetric: acuracy", "Did you mean 'accuracy'"),
        ("data: bundled:clothing", "data: bundled:clothing\nmetric: rmse", "for classification"),
        ("data: bundled:clothing", "data: bundled:clothing\nname: a/b", "letters, digits"),
        ("data: bundled:clothing", "data: bundled:clothing\ndata: again", "line"),
        ("searcher: bayes,", "searcher: bayes: 3,", "not valid YAML"),
        ("slurm:", "slurm: [1]\nx:", "unknown key x"),
        ('"10"', '"10"\n  optim.optim_type: adamv', "no optimiser 'adamv'"),
        ("{loguniform: [3e-4, 3e-2]}", "0.1", "impossible-to-match"),
    ],
)
def test_bad_files_are_refused_on_one_line(tmp_path, old, new, message):
    text = GOOD.replace(old, new)
    assert text != GOOD
    if message == "impossible-to-match":  # a fixed learning rate still leaves the model to search: no error
        load(tmp_path, text)
        return
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sweep.yaml" in str(caught.value)


def test_missing_file_and_missing_data(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_sweep(tmp_path / "none.yaml")
    with pytest.raises(DataError) as caught:
        load(tmp_path, GOOD.replace("bundled:clothing", "no/such/data"))
    assert "no/such/data" in str(caught.value)
    assert issubclass(DataError, SlurmtuneError)


def test_nothing_to_search_is_refused(tmp_path):
    text = "data: bundled:clothing\nhyperparameters: {optim.lr: 0.1}\nhyperparameter_tune_kwargs: {num_trials: 4}\n"
    with pytest.raises(UsageError, match="nothing is searched"):
        load(tmp_path, text)
    assert load(tmp_path, text, "num_trials=1").tune.num_trials == 1


def test_names_read_from_timms_files_are_timms():
    import timm
    from timm.optim import list_optimizers

    from hpo.modelnames import check_model_name, model_names, optimizer_names

    for name in [*timm.list_models(), *timm.list_pretrained(), "gluon_resnet18_v1b"]:
        check_model_name(name)
    architectures = {name for name in model_names() if "." not in name}
    assert set(timm.list_models()) <= architectures
    assert all(timm.is_model(name) for name in architectures)
    assert set(list_optimizers()) <= optimizer_names()


def write_manifest_with_table(tmp_path):
    columns = {"images": ["photo"], "numerical": [{"name": "price", "mean": 0.0, "std": 1.0}], "categorical": []}
    value = {"format": "hpoh5", "format_version": 2, "task": "regression", "class_names": [], "num_classes": 1,
             "splits": {"train": 0, "validation": 0, "test": 0}, "encoding": "jpeg", "image_size": None,
             "fingerprint": "0", "source": {}, "skipped": 0, "duplicates_across_splits": 0, "shards": [],
             "columns": columns}  # fmt: skip
    shard = {"size": 1, "mtime_ns": 1, "sha256": "", "payload_sha256": "", "num_samples": 9, "data_offset": {}}
    for split in ("train", "validation"):
        value["splits"][split] = 9
        value["shards"].append({**shard, "path": f"{split}.h5", "split": split})
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "manifest.json").write_text(json.dumps(value))


def test_keys_of_tables_go_with_tables(tmp_path):
    keys = "hyperparameters: {model.fusion_mlp.hidden_sizes: {choice: [[64], [128, 64]]}, optim.max_epochs: 2}\n"
    write_manifest_with_table(tmp_path)
    config = load(tmp_path, f"data: table\n{keys}")
    assert config.has_table
    assert SweepConfig.from_json(json.loads(json.dumps(config.to_json()))).has_table
    assert config.trial({"model.fusion_mlp.hidden_sizes": [128, 64]}).fusion.hidden_sizes == [128, 64]
    with pytest.raises(UsageError, match="cannot be mixed"):
        load(tmp_path, f"data: table\n{keys}", "data.mixup.turn_on=true")
    with pytest.raises(UsageError, match="model.fusion_mlp.hidden_sizes is for data with a table"):
        load(tmp_path, f"data: bundled:clothing\n{keys}")
    with pytest.raises(UsageError, match="data.modality_dropout is for data with a table"):
        load(tmp_path, GOOD, "data.modality_dropout=0.1")
    plain = load(tmp_path, GOOD, "model.names=[timm_image]")
    assert not plain.has_table
    assert "has_table" not in plain.to_json()
    assert "model.fusion_mlp.hidden_sizes" not in plain.trial({}).to_flat()
