"""python -m hpo.trial: alone, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hpo.trial
from hpo.trial.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SETS = [
    "model.timm_image.checkpoint_name=test_efficientnet",
    "model.timm_image.pretrained=false",
    "optimization.learning_rate=0.01",
    "optim.max_epochs=2",
    "env.accelerator=cpu",
    "env.batch_size=32",
]


def arguments(data, out, *more):
    return ["--data", str(data), "--out", str(out), *(part for text in SETS for part in ("--set", text)), *more]


def test_trains_and_prints_a_line_an_epoch(raw_data, tmp_path, capsys):
    assert main(arguments(raw_data, tmp_path / "trial", "--seed", "3")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[2].startswith("finished after epoch 2 (max_epochs): best val_accuracy ")
    params = json.loads((tmp_path / "trial" / "params.json").read_text())
    assert params["optim.lr"] == 0.01


def test_json_and_config_file(raw_data, tmp_path, capsys):
    keys = {"optimization.max_epochs": 1, "model.timm_image.train_transforms": ["resize"], "optim.lr": 5.0}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    more = ["--json", "--config", str(tmp_path / "keys.json"), "--metric", "val_loss"]
    assert main(arguments(raw_data, tmp_path / "trial", *more)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 2]  # --set wins over the file
    assert lines[-1]["metric"] == "val_loss"
    assert lines[-1]["best_value"] == min(line["val_loss"] for line in lines[:2])
    params = json.loads((tmp_path / "trial" / "params.json").read_text())
    assert params["model.timm_image.train_transforms"] == ["resize"]


def test_same_command_goes_on(raw_data, tmp_path, capsys):
    command = arguments(raw_data, tmp_path / "trial")
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("finished after epoch 2 (max_epochs)")


def test_regression_chooses_its_own_metric(brightness_data, tmp_path, capsys):
    assert main(arguments(brightness_data, tmp_path / "trial")) == 0
    assert "best val_rmse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--set", "optim.learning_rat=1"], 2, "Did you mean"),
        (["--set", "optim.lr=fast"], 2, "optim.lr must be a number, got 'fast'"),
        (["--set", "optim.lr"], 2, "--set takes KEY=VALUE"),
        (["--num-to-keep", "0"], 2, "--num-to-keep"),
        (["--config", "/no/such.json"], 2, "/no/such.json"),
        (["--metric", "val_f1"], 5, "metric 'val_f1' is not reported"),
        (["--data", "/no/such"], 3, "/no/such"),
    ],
)
def test_mistakes_end_with_one_line_and_their_code(raw_data, tmp_path, capsys, more, code, words):
    assert main(arguments(raw_data, tmp_path / "trial", *more)) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_package_and_help_start_without_torch():
    code = (
        "import sys, hpo.trial, hpo.trial.__main__ as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "example: python -m hpo.trial" in done.stdout
    assert hpo.trial.train.__module__ == "hpo.trial.loop"
