"""launch/retrain.py: means over seeds, equal within noise, the winner's curse, and the test split once."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import SWEEP, make_shards

from hpo.config import load_sweep
from hpo.layout import read_json
from hpo.records import Journal
from hpo.results.read import open_results, read_results
from hpo.results.report import write_report
from hpo.results.retraining import choose_candidates, read_retraining
from hpo.search.plugins import open_sweep
from hpo.staging import stage_sweep
from launch import again
from launch.retrain import main

Retrain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def retrain(call: Callable[..., tuple[int, str, str]]) -> Retrain:
    return partial(call, main)


def write_seed(sweep_writer: Any, root: Path, seed: int, values: dict[int, float], ended: bool = True) -> None:
    """DIR/retrain/seed-N as the driver leaves it: the trials of `all_fates` by number, and what they came to."""
    origin = {row.number: row for row in read_results(open_results(root)).rows}
    sweep = sweep_writer(root / "retrain" / f"seed-{seed}", seed=seed, num_trials=len(values) + (not ended),
                         tune={"scheduler": "FIFO"})  # fmt: skip
    sweep.start_attempt()
    for number, (trial, value) in enumerate(values.items()):
        params = origin[trial].params
        again = sweep.suggest(number, "user", model=params["model.timm_image.checkpoint_name"],
                              lr=params["optim.lr"], optimizer=params["optim.optim_type"])  # fmt: skip
        sweep.train(again, [value - 0.1, value])
        sweep.finish(again, "completed", "max_epochs")
    if ended:
        sweep.end()
    else:
        sweep.close()


def test_candidates_are_the_best_with_different_configurations(all_fates: Path) -> None:
    results = read_results(open_results(all_fates))
    assert [row.trial for row in choose_candidates(results, 2)] == ["0001", "0000"]
    assert [row.trial for row in choose_candidates(results, 99)] == ["0001", "0000", "0005", "0002"]


def test_a_clear_winner_and_its_curse(all_fates: Path, sweep_writer: Any, retrain: Retrain) -> None:
    for seed, values in {1: {0: 0.50, 1: 0.80}, 2: {0: 0.52, 1: 0.82}, 3: {0: 0.51, 1: 0.84}}.items():
        write_seed(sweep_writer, all_fates, seed, values)
    code, output, _ = retrain(all_fates)
    assert code == 0
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line[:1].isdigit()}
    assert lines["0001"][1:] == ["0.8625", "0.8200", "0.0200", "3", "+0.0425"]
    assert lines["0000"][1:4] == ["default", "0.6000", "0.5100"]
    assert lines["0000"][-3] == "0.3100"
    assert "Trial 0001 is better than the others beyond the noise of 3 seeds." in output
    found = json.loads(retrain(all_fates, "--json")[1])
    assert found["equal"] == []
    assert found["candidates"][0]["mean"] == pytest.approx(0.82)
    difference, half = found["candidates"][1]["behind"]
    differences = [0.30, 0.30, 0.33]
    mean = sum(differences) / 3
    deviation = math.sqrt(sum((one - mean) ** 2 for one in differences) / 2)
    assert (difference, half) == pytest.approx((mean, 4.303 * deviation / math.sqrt(3)), rel=1e-3)
    page = write_report(open_results(all_fates)).read_text()
    assert "Train the best ones again" not in page
    assert '<td>0001</td><td class="number">0.8625</td><td class="number">0.8200</td>' in page
    assert "Trial 0001 is better than the others beyond the noise of 3 seeds." in page
    (all_fates / "retrain" / "seed-2" / "journal.jsonl").write_text("no journal\n")
    assert "DIR/retrain cannot be read:" in write_report(open_results(all_fates)).read_text()


def test_equal_within_noise_is_said(all_fates: Path, sweep_writer: Any, retrain: Retrain) -> None:
    for seed, values in {1: {1: 0.80, 5: 0.82}, 2: {1: 0.83, 5: 0.81}, 3: {1: 0.84, 5: 0.82}}.items():
        write_seed(sweep_writer, all_fates, seed, values)
    output = retrain(all_fates)[1]
    assert "Equal within noise: 0001, 0005" in output


def test_one_seed_and_an_unfinished_one(all_fates: Path, sweep_writer: Any, retrain: Retrain) -> None:
    assert retrain(all_fates)[0] == 2
    write_seed(sweep_writer, all_fates, 1, {1: 0.8, 0: 0.5}, ended=False)
    output = retrain(all_fates)[1]
    assert "One seed says nothing about noise" in output
    assert "Not ended yet: seed 1." in output
    code, _, errors = retrain(all_fates, "--test")
    assert code == 2
    assert "1 of 1 seeds have not ended" in errors


def test_less_is_better(new_sweep: Any, sweep_writer: Any) -> None:
    sweep = new_sweep(metric="val_loss", mode="min", num_trials=2)
    sweep.start_attempt()
    for number, value in enumerate((1.0, 0.5)):
        trial = sweep.suggest(number, lr=0.001 * (number + 1))
        sweep.train(trial, [value])
        sweep.finish(trial, "completed", "max_epochs")
    root = sweep.end()
    for seed, values in ((1, (1.0, 0.6)), (2, (1.1, 0.7))):
        again = sweep_writer(root / "retrain" / f"seed-{seed}", metric="val_loss", mode="min", num_trials=2)
        again.start_attempt()
        for number, value in enumerate(values):
            again.train(again.suggest(number, lr=0.001 * (number + 1)), [value])
            again.finish(f"{number:04d}", "completed", "max_epochs")
        again.end()
    found = read_retraining(read_results(open_results(root)))
    assert [candidate.trial for candidate in found.candidates] == ["0001", "0000"]
    assert found.equal == []
    assert found.behind["0000"] == pytest.approx((0.4, 0.0), abs=1e-9)


def test_a_sweep_that_has_not_ended_is_not_retrained(running_sweep: Path, retrain: Retrain) -> None:
    code, _, errors = retrain(running_sweep, "--seeds", "2", "--cluster", "local")
    assert code == 2
    assert "has not ended" in errors
    assert not (running_sweep / "retrain").exists()


@pytest.mark.ray
def test_a_real_retraining_and_the_test_split_once(trained_sweep: Path, tmp_path: Path, retrain: Retrain) -> None:
    """By the same road as any sweep: submit.py, an attempt, Ray; then the models of it on the test split."""
    copy = shutil.copytree(trained_sweep, tmp_path / "sweep")
    settings = json.loads((copy / "resolved.json").read_text())
    request = dict.fromkeys(("partition", "account", "qos", "nodes", "gpus_per_node", "cpus_per_task", "mem", "time",
                             "constraint"))  # fmt: skip
    settings = {**settings, "cluster": "local", "request": request}
    (copy / "resolved.json").write_text(json.dumps(settings))
    code, output, errors = retrain(copy, "--seeds", "1", "--top", "2", "--json")
    assert code == 0, errors
    found = json.loads(output)
    assert found["seeds"] == [1]
    assert {one["trial"] for one in found["candidates"]} == {"0000", "0001"}
    journal = copy / "retrain" / "seed-1" / "journal.jsonl"
    before = journal.read_bytes()
    assert b'"decided"' in before
    assert b'"stop"' not in before
    assert retrain(copy, "--seeds", "1", "--top", "2")[0] == 0
    assert journal.read_bytes() == before  # it had ended: nothing was begun anew
    code, output, errors = retrain(copy, "--test")
    assert code == 0, errors
    assert "Test split, used once on" in output
    first = (copy / "retrain" / "test.json").read_bytes()
    code, output, errors = retrain(copy, "--test")
    assert "it is not used again" in errors
    assert (copy / "retrain" / "test.json").read_bytes() == first


@pytest.mark.parametrize("more", [(), ("--cluster", "local")])
def test_seeds_run_where_the_sweep_did(
    tmp_path: Path, retrain: Retrain, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """On its site, as a pool if it was one; without its limits."""
    make_shards(tmp_path, 4)
    (tmp_path / "small.yaml").write_text(SWEEP.format(data="data", epochs=1, trials=1))
    config = load_sweep(tmp_path / "small.yaml", [], tmp_path)
    site, terms = (
        {"path": "/gone.yaml", "modules": ["cuda/12"]},
        {"mode": "pool", "head_time": "60", "max_gpu_hours": 1},
    )
    run = stage_sweep(config, tmp_path / "run", "slurm", {}, terms, site)
    with contextlib.closing(Journal(run.journal)) as journal:
        sweep = open_sweep(config, journal, "a1", run)
        sweep.start_attempt(job="7", host="node17", nodes=1)
        trial = sweep.next_trial()
        sweep.start_trial(trial.id, "node17")
        sweep.report(trial.id, 1, {"val_accuracy": 0.5}, end="max_epochs")
        sweep.end_attempt("all trials have ended")
    monkeypatch.setattr(again, "run_here", lambda *about: 0)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch there
    code, _, said = retrain(run.root, "--seeds", "1", *more)
    assert (code, "Traceback" in said) == (0 if more else 4, False), said
    [seed] = (run.root / "retrain").iterdir()
    resolved = read_json(seed / "resolved.json")
    assert resolved["site"] == site
    assert {key: value for key, value in resolved["terms"].items() if value is not None} == (
        {} if more else {"mode": "pool", "head_time": "60"}
    )
