"""Several processes train one trial: the same batch, one model, one end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpo.trial import train
from hpo.trial.group import Group, RankedTraining, RankFailure, rank_environment

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600
# A ViT has no batch statistics: what is left between one process and two is the order of sums.
KEYS = {
    "model.timm_image.checkpoint_name": "test_vit",
    "model.timm_image.pretrained": "false",
    "optim.optim_type": "sgd",
    "optim.lr": 0.02,
    "optim.max_epochs": 2,
    "env.batch_size": 32,
    "env.accelerator": "cpu",
    "env.num_workers": 1,
}
FOREIGN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "PMI_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "8", "LOCAL_RANK": "5",
           "RANK": "5", "MASTER_ADDR": "elsewhere.invalid", "MASTER_PORT": "1"}  # fmt: skip


def probe(world, data, folder):
    """What each of `world` ranks has seen of the trainings of rank_probe.py."""
    (folder / "meetings").mkdir(parents=True)
    processes = []
    for rank in range(world):
        command = [sys.executable, Path(__file__).parent / "rank_probe.py", str(rank), str(world)]
        places = [folder / "meetings" / "at", data, folder, json.dumps(KEYS)]
        environ = rank_environment({**os.environ, **FOREIGN}, world, world)
        processes.append(subprocess.Popen([*command, *places], env=environ, stdout=subprocess.PIPE, text=True))
    return [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in processes]


@pytest.fixture(scope="module")
def alone(raw_data, tmp_path_factory):
    return probe(1, raw_data, tmp_path_factory.mktemp("one"))[0]


@pytest.fixture(scope="module")
def pair(raw_data, tmp_path_factory):
    return probe(2, raw_data, tmp_path_factory.mktemp("two"))


def test_ranks_hold_the_same_model(pair):
    first, second = pair
    assert first["whole"] == second["whole"]
    assert first["pieces"] == second["pieces"]


def test_two_processes_train_as_one_does(alone, pair):
    one, two = alone["whole"], pair[0]["whole"]
    assert two["micro_batch"] == 16
    assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)


def test_pieces_of_ranks_add_up_too(alone, pair):
    """16 images of a rank as 5, 5, 5 and 1: gradients are summed over ranks with the last piece only."""
    assert pair[0]["pieces"]["weights"] == pytest.approx(alone["whole"]["weights"], abs=1e-4)


def test_without_the_sum_over_ranks_they_part(pair):
    """So that the tests above would notice it if nothing were summed."""
    first, second = (found["alone"] for found in pair)
    assert first["digest"] != second["digest"]
    assert abs(first["train_loss"] - pair[0]["whole"]["train_loss"]) > 1e-4


def test_ranks_go_on_exactly(pair):
    assert pair[0]["parted"] == pair[0]["whole"]


@pytest.fixture(scope="module")
def group():
    group = Group(2, 2)
    yield group
    group.end()


@pytest.fixture
def begin(group, raw_data, configure, tmp_path, monkeypatch):
    """A RankedTraining in a folder of that name, which faults/inject may be told of."""

    def build(name, fault=None, keys=None, **more):
        plan = {name: {"fault": fault, "epoch": 2}} if fault else {}
        monkeypatch.setenv("FAULT_PLAN", json.dumps(plan))
        monkeypatch.setenv("FAULT_COUNTS", str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "faults" / "inject"))
        (tmp_path / "trials" / name).mkdir(parents=True)
        if fault:
            group.end()  # the plan is read as a process starts
        return RankedTraining(group, configure({**KEYS, **(keys or {})}), raw_data, tmp_path / "trials" / name, **more)

    return build


def test_a_group_trains_one_trial_after_the_other(begin, group, configure, raw_data, tmp_path, monkeypatch):
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    signs = []
    first = begin("first", progress=lambda: signs.append(time.monotonic()))
    metrics = first.run_epoch()
    assert (metrics["epoch"], metrics["ranks"], metrics["micro_batch"], first.finished) == (1, 2, 16, "")
    assert signs
    first.close()
    pids = [process.pid for process in group._processes]
    second = begin("second")
    assert second.run_epoch()["train_loss"] == metrics["train_loss"]
    assert [process.pid for process in group._processes] == pids
    second.run_epoch()
    assert second.finished == "max_epochs"
    second.close()
    log = (tmp_path / "trials" / "second" / "log.txt").read_text()
    assert "test_vit on cpu" in log
    assert train(configure(KEYS), raw_data, tmp_path / "trials" / "second", lambda _: True).epoch == 2  # one goes on


def test_out_of_memory_in_a_rank_halves_for_all(begin, group):
    """With 16 images of 32 in each rank: 8 fit. All begin again from the checkpoint of the first epoch."""
    training = begin("little", "little memory")
    assert training.run_epoch()["micro_batch"] == 16
    metrics = training.run_epoch()
    assert (metrics["epoch"], metrics["micro_batch"]) == (2, 8)
    training.close()


def test_a_rank_that_dies_ends_all(begin, group):
    training = begin("dies", "killed")
    training.run_epoch()
    pids = [process.pid for process in group._processes]
    began = time.monotonic()
    with pytest.raises(RankFailure, match=r"process . of 2 ended by SIGKILL") as failed:
        training.run_epoch()
    assert failed.value.kind == "killed"
    assert time.monotonic() - began < PATIENCE_S
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    training.close()


@pytest.mark.faults
def test_ranks_that_hang_are_ended_with_their_stacks(begin, tmp_path):
    training = begin("hangs", "hang", hang_timeout=60)
    training.run_epoch()
    with pytest.raises(RankFailure, match="no progress|made progress") as failed:
        training.run_epoch()
    assert failed.value.kind == "hang"
    assert "in happen" in (tmp_path / "trials" / "hangs" / "log.txt").read_text()


def test_an_error_of_a_rank_is_the_trials(begin):
    with pytest.raises(RankFailure, match="timm has no optimiser 'none'") as failed:
        begin("wrong", keys={"optim.optim_type": "none"})
    assert failed.value.kind == "trial"


def test_a_batch_smaller_than_the_ranks_is_refused(begin):
    with pytest.raises(RankFailure, match="a batch of 1 leaves some of 2 processes without an image"):
        begin("small", keys={"env.batch_size": 1})
