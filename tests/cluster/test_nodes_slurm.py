"""Trials that are each spread over several hosts of a real SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_sweeps import make_shards
from sockets import listening_addresses

from hpo.config import SweepConfig
from hpo.records import SweepState, read_events
from hpo.trial import train

pytestmark = pytest.mark.slurm
SWEEP = """
name: spread
data: data
hyperparameters:
  model.timm_image.checkpoint_name: test_vit
  model.timm_image.pretrained: false
  optimization.optim_type: sgd
  optimization.learning_rate: {{loguniform: [1e-3, 1e-1], default: 2e-2}}
  optimization.max_epochs: {epochs}
  optimization.patience: 99999
  env.batch_size: 32
  env.num_workers: 1
hyperparameter_tune_kwargs:
  num_trials: {trials}
  scheduler: FIFO
  searcher: random
  resources_per_trial: {{num_gpus: {nodes}, num_nodes: {nodes}}}
"""
ADDRESSES = {"node1": "10.77.0.11", "node2": "10.77.0.12", "node3": "10.77.0.13"}
FOREIGN = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_", "PMI_", "MASTER_ADDR", "WORLD_SIZE", "RANK")
WAIT_S = 500


@pytest.fixture
def start(slurm, shared_tmp, submit):
    """start(hosts, trials, epochs) -> the sweep's directory and its job. A trial has a GPU of each of `nodes` hosts."""

    def begin(hosts, trials, epochs, gpus=1, nodes=2):
        make_shards(shared_tmp)
        (shared_tmp / "spread.yaml").write_text(SWEEP.format(trials=trials, epochs=epochs, nodes=nodes))
        flags = ("--nodes", hosts, "--gpus-per-node", gpus, "--time", "40", "--run-dir", shared_tmp / "run")
        done = submit(shared_tmp / "spread.yaml", "--partition", "gpu", *flags, "--json")
        assert done.returncode == 0, done.stderr
        return shared_tmp / "run", json.loads(done.stdout)["job"]

    return begin


def state_of(run):
    return SweepState(read_events(run / "journal.jsonl"))


def ranks_on(slurm, host):
    return [pid for pid, _ in slurm.processes(host, "-m hpo.trial.rank")]


def test_two_trials_over_two_hosts(slurm, start, wait_for_event, tmp_path):
    run, job = start(hosts=2, trials=2, epochs=6, gpus=2)
    wait_for_event(run, lambda s: len(s.trials) == 2 and all(t.epochs for t in s.trials.values()), WAIT_S)
    for host in ("node1", "node2"):
        pids = ranks_on(slurm, host)
        assert len(pids) == 2  # one of each trial
        assert listening_addresses(pids) == {ADDRESSES[host]}
        for pid in pids:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert not [name for name in environ if name.decode().startswith(FOREIGN)]
    assert slurm.wait(job, WAIT_S) == "COMPLETED", (run / "submitit" / f"{job}_0_log.out").read_text()
    state, config = state_of(run), SweepConfig.from_json(json.loads((run / "resolved.json").read_text()))
    for trial in state.trials.values():
        assert (trial.state, trial.failures) == ("completed", [])
        alone = []
        train(config.trial(trial.params), config.data, tmp_path / trial.id, lambda m, alone=alone: not alone.append(m))
        for epoch, one in enumerate(alone, 1):
            both = trial.last[epoch]
            assert (both["ranks"], both["micro_batch"]) == (2, 16)
            assert set(both["host"].split(", ")) == {"node1", "node2"}
            assert both["train_loss"] == pytest.approx(one["train_loss"], abs=1e-6)
            assert both["val_loss"] == pytest.approx(one["val_loss"], abs=1e-6)
            assert both["val_accuracy"] == one["val_accuracy"]


@pytest.mark.faults
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_host_of_a_trial_is_lost(slurm, start, submit, wait_for_event, nodes):
    """Of three hosts: a trial over two goes on at once, with the third; one over all goes on when the job, which is
    queued again, has three. The host that is lost has no driver and, of a trial over three, not the process that
    decides for all."""
    run, job = start(hosts=3, trials=1, epochs=50000, nodes=nodes)
    state = wait_for_event(run, lambda s: any(t.epochs >= 3 for t in s.trials.values()), WAIT_S)
    [trial] = state.trials.values()
    others = [host for host in trial.last[trial.epochs]["host"].split(", ") if host != state.attempts[0]["host"]]
    hit = next(host for host in others if nodes == 2 or host != trial.node)
    slurm.node("crash", hit)
    wait_for_event(run, lambda s: s.trials[trial.id].failures, WAIT_S)
    if nodes == 3:
        state = wait_for_event(run, lambda s: s.attempts[0].get("ended"), WAIT_S)
        assert state.attempts[0]["ended"]["reason"] == "only 2 of the 3 hosts that a trial needs are left"
        slurm.node("boot", hit)

    def goes_on(state):
        after = state.trials[trial.id]
        return after.epochs > max(failure["epoch"] for failure in after.failures) + 3

    state = wait_for_event(run, goes_on, WAIT_S)
    after = state.trials[trial.id]
    assert [(failure["kind"], failure["cause"]) for failure in after.failures] == [("host", f"{hit} was lost")]
    assert len(after.last[after.epochs]["host"].split(", ")) == nodes
    if nodes == 2:
        assert hit not in after.last[after.epochs]["host"]
    assert len(state.attempts) == nodes - 1
    assert {attempt["job"] for attempt in state.attempts} == {job}
    assert sorted(after.last) == list(range(1, after.epochs + 1))  # from its checkpoint: none is left out
    assert {epoch: after.first[epoch] for epoch in trial.first} == trial.first
    done = submit("--stop", run, timeout=300)
    assert done.returncode == 0, done.stderr
