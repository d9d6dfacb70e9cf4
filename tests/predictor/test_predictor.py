"""AutoMM's calls on real photographs, one trial each: no Ray."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpo import MultiModalPredictor, Real
from hpo.errors import DataError, TrialError, UsageError
from hpo.layout import read_json
from hpo.predictor.document import base_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_fit_tells_what_it_came_to(fitted):
    assert fitted.problem_type == "multiclass"
    assert fitted.class_labels == ["hat", "pants", "shoes"]
    assert (fitted.eval_metric, fitted.validation_metric) == ("accuracy", "accuracy")
    summary = fitted.fit_summary()
    assert summary["val_accuracy"] >= fitted.leaderboard()["val_accuracy"][0]  # averaged, never worse
    assert summary["training_time"] > 0
    assert summary["trials"] == {"completed": 1}
    assert fitted.best_config["optim.lr"] == 5e-3
    assert fitted.best_config["optim.max_epochs"] == 4
    [trial] = fitted.trials()
    assert [epoch for epoch, _ in trial["curve"]] == [1, 2, 3, 4]
    assert trial["value"] == max(value for _, value in trial["curve"])
    assert trial["best_epoch"] == summary["best_epoch"]


def test_what_it_is_is_told_in_automms_names(fitted):
    assert (fitted.label, fitted.column_types) == ("label", {"image": "image_path"})
    with pytest.raises(UsageError, match="positive_class is of binary problems; this one is multiclass"):
        _ = fitted.positive_class
    with pytest.raises(AttributeError, match="has no 'export_onnx'; launch/export.py DIR --out MODEL --also onnx"):
        fitted.export_onnx("x")
    with pytest.raises(AttributeError, match="has no 'leader_board'. Did you mean 'leaderboard'"):
        fitted.leader_board()
    assert not hasattr(fitted, "dump_model")


def test_predictions_belong_to_their_rows(fitted, split):
    table = split[1].set_index(pd.Index(range(100, 100 + len(split[1]))))
    classes, chances = fitted.predict(table), fitted.predict_proba(table)
    assert list(classes.index) == list(chances.index) == list(table.index)
    assert classes.name == "label"
    assert list(chances.columns) == ["hat", "pants", "shoes"]
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances.idxmax(axis=1) == classes).all()
    backwards = fitted.predict_proba(table.iloc[::-1])
    np.testing.assert_allclose(backwards.loc[chances.index], chances, atol=1e-6)
    assert (classes == table["label"]).mean() > 0.4  # three classes: 0.33 by chance


def test_every_form_predicts_the_same(fitted, split, tmp_path):
    table = split[1]
    chances = fitted.predict_proba(table, as_pandas=False)
    assert isinstance(chances, np.ndarray)
    table.to_csv(tmp_path / "t.csv", index=False)
    for data in ({"image": table["image"].tolist()}, table["image"].tolist(), tmp_path / "t.csv", table[["image"]]):
        np.testing.assert_array_equal(fitted.predict_proba(data, as_pandas=False), chances)


def test_evaluate_by_names(fitted, split):
    scores, guesses = fitted.evaluate(split[1], metrics=["accuracy", "f1_macro", "log_loss"], return_pred=True)
    assert scores["accuracy"] == pytest.approx((guesses == split[1]["label"]).mean())
    chances = fitted.predict_proba(split[1])
    chosen = [chances.loc[row, name] for row, name in split[1]["label"].items()]
    assert scores["log_loss"] == pytest.approx(-np.log(chosen).mean())
    assert fitted.evaluate(split[1]) == {"accuracy": scores["accuracy"]}
    with pytest.raises(DataError, match="has class 'sofa', which training did not have"):
        fitted.evaluate(split[1].assign(label="sofa"))
    with pytest.raises(UsageError, match="has no column 'label' to evaluate by"):
        fitted.evaluate(split[1][["image"]])


def test_saved_and_loaded_elsewhere_it_is_the_same(fitted, split, tmp_path):
    fitted.save(tmp_path / "kept")
    code = (
        "import sys; from hpo import MultiModalPredictor; import pandas as pd\n"
        f"p = MultiModalPredictor.load({str(tmp_path / 'moved')!r}); t = pd.read_csv({str(tmp_path / 't.csv')!r})\n"
        "p.predict_proba(t).to_csv(sys.stdout, index=False)\n"
        "print(len(p.leaderboard()), p.fit_summary(), file=sys.stderr)\n"
        "assert 'ray' not in sys.modules"
    )
    (tmp_path / "kept").rename(tmp_path / "moved")
    split[1].to_csv(tmp_path / "t.csv", index=False)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    (tmp_path / "out.csv").write_text(done.stdout)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv"), fitted.predict_proba(split[1]), atol=1e-5)
    assert done.stderr.strip() == f"1 {fitted.fit_summary()}"
    names = {path.name for path in (tmp_path / "moved").iterdir()}
    assert names == {"predictor.json", "model.json", "model.safetensors", "journal.jsonl", "resolved.json"}
    fitted.save(tmp_path / "moved")  # its own place may be written again
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(UsageError, match="holds something else"):
        fitted.save(tmp_path / "other")
    loaded = MultiModalPredictor.load(tmp_path / "moved")
    with pytest.raises(UsageError, match="holds a fit; save to a new directory"):
        loaded.save(fitted.path)
    with pytest.raises(UsageError, match="AutoMM's standalone=False is not supported: a saved predictor always"):
        fitted.save(tmp_path / "kept", standalone=False)


def test_regression_by_rmse_goes_on_in_a_second_fit(split, here, small):
    """Brightness of a photograph in 0 to 255: found to be regression, searched by rmse, lowest first."""
    from PIL import Image

    train, test = (
        part.assign(label=[float(np.asarray(Image.open(path)).mean()) for path in part["image"]]) for part in split
    )
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(
        train, hyperparameters={**small, "optimization.max_epochs": 6}, tuning_data=test, save_path=here / "a"
    )
    assert (predictor.problem_type, predictor.validation_metric) == ("regression", "rmse")
    [trial] = predictor.trials()
    values = dict(trial["curve"])
    assert trial["value"] == min(values.values())
    kept = {int(path.name[5:]) for path in (here / "a" / "trials" / "0000" / "checkpoint").glob("best-*")}
    assert kept == set(sorted(values, key=values.get)[:3])
    scores = predictor.evaluate(test, metrics=["rmse", "mae", "r2"])
    assert scores["rmse"] <= trial["value"] * 1.001
    assert scores["r2"] == pytest.approx(1 - scores["rmse"] ** 2 / test["label"].var(ddof=0))
    assert predictor.predict(test).dtype == np.float64
    with pytest.raises(UsageError, match="predict_proba is for classes"):
        predictor.predict_proba(test)
    with pytest.raises(UsageError, match="metric 'accuracy' is not for regression"):
        predictor.evaluate(test, metrics="accuracy")

    once = predictor.fit_summary()["val_rmse"]
    predictor.fit(
        train, hyperparameters={"optim.lr": 1e-4, "optim.max_epochs": 1, "env.batch_size": 16}, tuning_data=test
    )
    assert predictor.best_config["model.timm_image.checkpoint_name"] == "test_resnet"
    assert predictor.best_config["model.timm_image.pretrained"] == str(here / "a" / "model.safetensors")
    assert predictor.fit_summary()["val_rmse"] < once * 1.2  # from scratch it would be far off


def test_binary_by_its_positive_class(split, here, small):
    train, test = (part[part["label"] != "pants"].assign(label=part["label"] == "hat") for part in split)
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(train, hyperparameters={**small, "optimization.max_epochs": 2, "data.pos_label": False}, seed=3)
    assert (predictor.problem_type, predictor.eval_metric) == ("binary", "roc_auc")
    assert predictor.validation_metric == "roc_auc"
    assert predictor.leaderboard()["val_roc_auc"][0] <= predictor.fit_summary()["val_roc_auc"] <= 1
    assert predictor.predict(test).dtype == bool
    one = predictor.predict_proba(test, as_multiclass=False)
    np.testing.assert_array_equal(one, predictor.predict_proba(test)[False])
    assert 0 <= predictor.evaluate(test)["roc_auc"] <= 1
    assert predictor.positive_class is False
    assert read_json(Path(predictor.path) / "resolved.json")["seed"] == 3


def test_a_trial_that_fails_is_told_in_one_line(split, here, small):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    with pytest.raises(TrialError, match="no pretrained weights of test_resnet|cannot be downloaded") as failure:
        predictor.fit(split[0], hyperparameters={**small, "model.timm_image.pretrained": "auto"})
    assert "\n" not in str(failure.value)
    with pytest.raises(UsageError, match="this predictor is not fitted"):
        predictor.predict(split[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hyperparameter_tune_kwarg": {}}, "fit has no argument 'hyperparameter_tune_kwarg'. Did you mean"),
        ({"teacher_predictor": "x"}, "AutoMM's teacher_predictor='x' is not supported: distillation"),
        ({"column_types": ["image"]}, "column_types must be a dict of columns and types, got"),
        ({"column_types": {"imge": "null"}}, "has no column 'imge'. Did you mean 'image'"),
        ({"column_types": {"label": "categorical"}}, "column_types names the label 'label'; what it is, problem_type"),
        ({"column_types": {"image": "pixels"}}, "column 'image' has type 'pixels', not one of numerical, categorical"),
        ({"column_types": {"image": "null"}}, "no column of image paths"),
        ({"time_limit": 0}, "time_limit must be a number of seconds above 0, got 0"),
        ({"time_limit": timedelta(seconds=-5)}, "time_limit must be a number of seconds above 0, got -5"),
        ({"cluster": "slrm"}, "cluster must be local or slurm, got 'slrm'. Did you mean 'slurm'"),
        ({"slurm": {"nodes": 2}}, "goes with cluster='slurm'"),
        ({"cluster": "slurm", "slurm": {"nodes": 0}}, "--nodes must be a whole number of at least 1"),
        ({"cluster": "slurm", "slurm": {"nods": 2}}, "unknown key slurm.nods. Did you mean 'nodes'"),
        ({"cluster": "slurm", "slurm": {"head_time": "01:00:00"}}, "--head-time is for --mode pool only"),
        ({"save_path": "."}, "exists already; give a new save_path"),
        ({"holdout_frac": 2}, "holdout_frac must lie between 0 and 1"),
        ({"presets": "best"}, "presets must be one of"),
        ({"hyperparameters": {"optim.lr": Real(0, 1)}}, "hyperparameter_tune_kwargs is not given"),
    ],
)
def test_refused_before_anything_starts(arguments, message, split, here):
    (here / "something").touch()
    with pytest.raises(UsageError, match=message):
        MultiModalPredictor(label="label", verbosity=0).fit(split[0], **arguments)
    assert {path.name for path in here.iterdir()} == {"something"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "a"}, "AutoMM's query='a' is not supported: matching"),
        ({"lable": "label"}, "no argument 'lable'. Did you mean 'label'"),
        ({"label": ["a"]}, r"label must be the name of a column, got \['a'\]"),
        ({"problem_type": "object_detection"}, "problem_type 'object_detection': it is not available: only binary"),
        ({"problem_type": "multiclas"}, "Did you mean 'multiclass'"),
        ({"presets": ["high_quality"]}, "presets must be one of .*, got"),
        ({"eval_metric": "acuracy"}, "metric 'acuracy' is not known. Did you mean 'accuracy'"),
        ({"eval_metric": "rmse", "problem_type": "binary"}, "metric 'rmse' is not for binary"),
        ({"validation_metric": "f2"}, "metric 'f2' is not known"),
        ({"hyperparameters": 3}, "hyperparameters must be a dict"),
        ({"verbosity": "x"}, "verbosity must be a whole number"),
        ({"ensemble_size": 3}, "AutoMM's ensemble_size=3 is not supported: ensembles"),
        ({"warn_if_exist": False}, "warn_if_exist=False is not supported: a path that exists is always refused"),
        ({"num_classes": 3}, "num_classes=3 is not supported: classes are found from the label"),
    ],
)
def test_the_constructor_is_checked_at_once(arguments, message):
    with pytest.raises(UsageError, match=message):
        MultiModalPredictor(**arguments)


def test_automms_own_defaults_may_be_written_out(split):
    """They change nothing; `pretrained` and `enable_progress_bar` do what they say."""
    defaults = {"warn_if_exist": True, "ensemble_size": 2, "ensemble_mode": "one_shot", "use_ensemble": False}
    predictor = MultiModalPredictor("label", "Binary", eval_metric="f1", pretrained=False, enable_progress_bar=False,
                                    query=None, num_classes=None, **defaults)  # fmt: skip
    assert (predictor.label, predictor.problem_type) == ("label", "binary")
    assert base_of({"optim.lr": 0.1}, pretrained=False) == {"optim.lr": 0.1, "model.timm_image.pretrained": False}
    own = {"model": {"timm_image": {"pretrained": "auto"}}}
    assert base_of(own, pretrained=False) == own
    assert base_of(None, pretrained=True) == {}
    with pytest.raises(UsageError, match="clean_ckpts=True is not supported: checkpoints stay"):
        predictor.fit(split[0], clean_ckpts=True)
    with pytest.raises(UsageError, match="problem_type is binary, but the label has 3 values"):
        predictor.fit(split[0], standalone=True, clean_ckpts=False, id_mappings=None)


def test_labels_and_validation_metrics_are_checked_too(split, here):
    with pytest.raises(UsageError, match="train_data has no column 'lable'"):
        MultiModalPredictor(label="lable").fit(split[0])
    with pytest.raises(UsageError, match="validation_metric f1 is not computed while trials train; choose of accuracy"):
        MultiModalPredictor(label="label", validation_metric="f1", verbosity=0).fit(split[0])
    with pytest.raises(UsageError, match="holds no predictor"):
        MultiModalPredictor.load(here)
