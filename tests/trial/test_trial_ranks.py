"""Several processes train one trial: the same batch, one model, one end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sockets import listening_addresses

from hpo.trial import train
from hpo.trial.group import Group, RankedTraining, RankFailure
from hpo.trial.rankprocesses import RankProcesses, rank_environment

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
    """16 images of a rank as 4 times 4: gradients are summed over ranks with the last piece only."""
    assert pair[0]["pieces"]["weights"] == pytest.approx(alone["whole"]["weights"], abs=1e-4)


def test_without_the_sum_over_ranks_they_part(pair):
    """So that the tests above would notice it if nothing were summed."""
    first, second = (found["alone"] for found in pair)
    assert first["digest"] != second["digest"]
    assert abs(first["train_loss"] - pair[0]["whole"]["train_loss"]) > 1e-4


def test_ranks_go_on_exactly(pair):
    assert pair[0]["parted"] == pair[0]["whole"]


def test_what_only_the_file_system_tells_apart_is_tried_again(tmp_path):
    program = (
        "import sys; from hpo.failures import CLASSES, classify; from hpo.trial.ranks import Ranks\n"
        "ranks = Ranks(int(sys.argv[1]), 2, sys.argv[2]); ranks.join(False)\n"
        "ranks.require_equal('the same', 1)\n"
        "try: ranks.require_equal('the newest checkpoint', 6 + ranks.rank)\n"
        "except Exception as error: print(CLASSES[classify(error)].retries, error)\n"
    )
    environ = {**rank_environment(os.environ, 2, 2), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path / "at")], env=environ, stdout=subprocess.PIPE,
                              text=True) for rank in range(2)]  # fmt: skip
    for rank in ranks:
        said = rank.communicate(timeout=PATIENCE_S)[0]
        assert said == "3 the 2 processes of the trial see different things (the newest checkpoint: [6, 7]).\n"


@pytest.fixture(scope="module")
def processes():
    return RankProcesses(2, 2)


@pytest.fixture(scope="module")
def group(processes):
    group = Group(processes)
    yield group
    group.end()


@pytest.fixture
def apart():
    """Two nodes with a rank each, which meet as those of two hosts do; both are this host."""
    nodes = [RankProcesses(1, 1), RankProcesses(1, 1)]
    group = Group(*nodes, address="127.0.0.1")
    yield SimpleNamespace(group=group, nodes=nodes)
    group.end()


@pytest.fixture
def begin(group, raw_data, configure, tmp_path, monkeypatch):
    """A RankedTraining in a folder of that name, which faults/inject may be told of."""

    def build(name, fault=None, keys=None, group=group, plan=None, **more):
        plan = plan or ({name: {"fault": fault, "epoch": 2}} if fault else {})
        monkeypatch.setenv("FAULT_PLAN", json.dumps(plan))
        monkeypatch.setenv("FAULT_COUNTS", str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "faults" / "inject"))
        (tmp_path / "trials" / name).mkdir(parents=True)
        if fault:
            group.end()  # the plan is read as a process starts
        return RankedTraining(group, configure({**KEYS, **(keys or {})}), raw_data, tmp_path / "trials" / name, **more)

    return build


def test_a_group_trains_one_trial_after_the_other(begin, processes, configure, raw_data, tmp_path, monkeypatch):
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    signs = []
    first = begin("first", progress=lambda: signs.append(time.monotonic()))
    metrics = first.run_epoch()
    assert (metrics["epoch"], metrics["ranks"], metrics["micro_batch"], first.finished) == (1, 2, 16, "")
    assert signs
    first.close()
    pids = processes.pids
    second = begin("second")
    assert second.run_epoch()["train_loss"] == metrics["train_loss"]
    assert processes.pids == pids
    second.run_epoch()
    assert second.finished == "max_epochs"
    second.close()
    log = (tmp_path / "trials" / "second" / "log.txt").read_text()
    assert "test_vit on cpu" in log
    assert train(configure(KEYS), raw_data, tmp_path / "trials" / "second", lambda _: True).epoch == 2  # one goes on


def test_out_of_memory_in_a_rank_halves_for_all(begin):
    """With 16 images of 32 in each rank: 8 fit. All begin again from the checkpoint of the first epoch."""
    training = begin("little", "little memory")
    assert training.run_epoch()["micro_batch"] == 16
    metrics = training.run_epoch()
    assert (metrics["epoch"], metrics["micro_batch"]) == (2, 8)
    training.close()


def test_a_rank_that_dies_ends_all(begin, processes):
    training = begin("dies", "killed")
    training.run_epoch()
    pids = processes.pids
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


def test_ranks_of_two_nodes_train_as_one_process_does(begin, apart, configure, raw_data, tmp_path):
    one = []
    train(configure(KEYS), raw_data, tmp_path / "alone", lambda metrics: not one.append(metrics))
    training = begin("apart", group=apart.group)
    two = [training.run_epoch(), training.run_epoch()]
    assert listening_addresses(pid for node in apart.nodes for pid in node.pids) == {"127.0.0.1"}
    training.close()
    for alone, both in zip(one, two, strict=True):
        assert (both["ranks"], both["micro_batch"]) == (2, 16)
        assert both["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-6)
        assert both["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-6)
        assert both["val_accuracy"] == alone["val_accuracy"]
    again = begin("again", group=apart.group)  # the same processes meet anew
    assert again.run_epoch()["train_loss"] == two[0]["train_loss"]
    again.close()


def test_a_rank_that_dies_on_one_node_ends_those_of_the_other(begin, apart):
    training = begin("parted", "killed", group=apart.group)
    training.run_epoch()
    with pytest.raises(RankFailure, match=r"process . of 2 on .* ended by SIGKILL") as failed:
        training.run_epoch()
    assert failed.value.kind == "killed"
    assert not apart.group.alive
    training.close()


def test_ranks_are_replaced_after_so_many_trials(begin, processes, group, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMTUNE_TRIALS_PER_PROCESS", "2")
    group.end()
    pids = []
    for name in ("one", "two", "three"):
        training = begin(name)
        pids.append(processes.pids)
        training.close()
    assert pids[0] == pids[1] != pids[2]
    assert "replaced: of 0, it has run 2 trials" in (tmp_path / "trials" / "two" / "log.txt").read_text()


def test_ranks_that_leak_are_replaced(begin, processes, group, tmp_path, monkeypatch):
    """Each trial leaves 64 MiB behind. From the second on one may leave 32: the third is the last."""
    monkeypatch.setenv("SLURMTUNE_LEAK_MB", "32")
    names = ("first", "second", "third", "fourth")
    plan = {name: {"fault": "leak", "epoch": 1, "times": 2} for name in names}
    group.end()
    pids = []
    for name in names:
        training = begin(name, plan=plan)
        training.run_epoch()
        pids.append(processes.pids)
        training.close()
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert "its memory grew by" in (tmp_path / "trials" / "third" / "log.txt").read_text()
