"""The README: its demo, its YAML, its lists; its other commands run in test_readme_slurm.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from readme import BLOCKS, COMMANDS, README
from ruamel.yaml import YAML

from hpo.records import SweepState, read_events
from hpo.space import parse_space

ROOT = Path(__file__).resolve().parents[2]


def test_make_test_is_what_runs_these_tests():
    assert "make test" in COMMANDS
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m pytest" in done.stdout


@pytest.mark.ray
def test_make_demo(tmp_path, monkeypatch):
    """The demo, whole: at least 12 trials, ASHA and the model at work, the winner clearly above the default."""
    assert "make demo" in COMMANDS
    monkeypatch.setenv("SLURMTUNE_RUNS", str(tmp_path / "runs"))
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "runs").glob("clothing-demo-*")
    state = SweepState(read_events(run / "journal.jsonl"))
    trials = list(state.trials.values())
    assert len(trials) >= 12
    assert sum(trial.state == "stopped" for trial in trials) >= 3
    assert len({trial.params["model.timm_image.checkpoint_name"] for trial in trials}) >= 2
    assert sum(trial.origin == "model" for trial in trials) >= 3
    default, winner = state.trials["0000"], state.incumbent()
    assert winner.best[1] > default.best[1] + 0.05
    assert f"default {default.id}" in done.stdout
    assert f"best {winner.id}" in done.stdout
    assert (run / "report.html").is_file()
    assert str(run / "report.html") in done.stderr


def test_every_yaml_block_is_valid():
    for kind, block in BLOCKS:
        if kind != "yaml":
            continue
        document = YAML(typ="safe").load(block)
        optimisers = {"optimization.optim_type": {"choice": ["adamw", "sgd", "lamb"]}}
        parse_space(document.get("hyperparameters", {**optimisers, **document}))


def test_every_key_and_exit_code_is_in_the_readme():
    from hpo import errors
    from hpo.metrics import REPORTED
    from hpo.trialconfig import known_keys

    for key in known_keys():
        name = {"lr": "learning_rate"}.get(key.rpartition(".")[2], key.rpartition(".")[2])
        assert f"`{name}`" in README, key
    for metric in {name for names in REPORTED.values() for name in names}:
        assert f"`{metric}`" in README
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "exit_code")}
    for code in codes | {0, 75, 130}:
        assert f"| {code} |" in README
