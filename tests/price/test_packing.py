"""Several trials on one GPU by measured memory: given measurements, since there is no GPU here."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from small_sweeps import make_shards

from hpo.cache import Cache
from hpo.cluster.request import SlurmRequest
from hpo.cluster.share import Share
from hpo.config import load_sweep
from hpo.errors import ClusterError, UsageError
from hpo.price.measured import Measured, Pace, Place
from hpo.price.packing import count_trials, one_each, pack
from hpo.price.quote import find_place
from hpo.search.engine import count_spread
from hpo.tuneconfig import parse_tune

GB = 2**30
SWEEP = """\
data: data
hyperparameters:
  model.timm_image.checkpoint_name: {choice: [test_resnet, test_vit]}
  model.timm_image.pretrained: false
  optimization.max_epochs: 2
hyperparameter_tune_kwargs: {num_trials: 4, resources_per_trial: {trials_per_gpu: auto}}
"""
HOST, REQUEST = (16, 2), SlurmRequest(partition="gpu", nodes=1, gpus_per_node=2, cpus_per_task=16)


def pace(memory, device=80 * GB):
    return Pace("NVIDIA H100", 10**6, memory, 1.0, 0.1, 10, 0.1, 0.1, 1.0, device_bytes=device)


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    make_shards(folder, 10)
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder / "sweep.yaml"


@pytest.fixture
def config(sweep_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return load_sweep(sweep_file, [])


def note(config, *memories, device=80 * GB):
    """As check.py --probe leaves it: one measurement of each kind, of trials with half a host's CPUs."""
    measured = Measured(one_each(config), Place(REQUEST, 8, 2))
    for case, memory in zip(measured.cases, memories, strict=True):
        Cache("pace").put(measured._key(case), dataclasses.asdict(pace(memory, device)))


@pytest.mark.parametrize(
    ("memories", "count"),
    [((2 * GB,), 8), ((9 * GB,), 7), ((2 * GB, 17 * GB), 4), ((40 * GB,), 1), ((79 * GB,), 1)],
)
def test_as_many_as_fit_with_the_largest(memories, count):
    assert count_trials([pace(memory) for memory in memories], "there") == count


def test_it_is_decided_by_what_the_probe_measured(config):
    said = []
    note(config, 3 * GB, 10 * GB)
    packed = pack(config, REQUEST, HOST, said.append)
    assert packed.tune.gpus_per_trial == 1 / 6
    assert said == ["trials_per_gpu auto: 6, by the memory of 2 kinds of trial"]
    assert Share(packed).divide({"cpus": 16, "gpus": 2}) == (1, 1 / 6)
    share = Share(packed)
    share.divide({"cpus": 16, "gpus": 2})
    assert share.places({"cpus": 16, "gpus": 2}) == 12


def test_every_trial_has_a_cpu(config):
    note(config, GB, GB)
    crowded = dataclasses.replace(REQUEST, cpus_per_task=4)
    measured = Measured(one_each(config), Place(crowded, 2, 2))
    for case in measured.cases:
        Cache("pace").put(measured._key(case), dataclasses.asdict(pace(GB)))
    assert pack(config, crowded, (4, 2), lambda _: None).tune.gpus_per_trial == 1 / 2


def test_without_a_measurement_it_is_refused(config):
    with pytest.raises(
        UsageError, match="no memory was measured at partition gpu, any GPU, 8 CPUs a trial; check.py --probe"
    ):
        pack(config, REQUEST, HOST, lambda _: None)
    note(config, 3 * GB, 3 * GB, device=0)
    with pytest.raises(UsageError, match="what was measured at partition gpu"):
        pack(config, REQUEST, HOST, lambda _: None)
    with pytest.raises(ClusterError, match="started without it; give a number"):
        Share(config).divide({"cpus": 16, "gpus": 2})


def test_where_there_are_no_gpus_there_is_nothing_to_decide(config):
    said = []
    assert pack(config, None, (2, 0), said.append) == config
    assert "no GPUs" in said[0]
    assert Share(config).divide({"cpus": 2, "gpus": 0}) == (1, 0)


def test_words_of_resources():
    def resources(**values):
        return parse_tune({"resources_per_trial": values})

    assert (resources(gpu=0.5, cpu=2).gpus_per_trial, resources(gpu=0.5, cpu=2).cpus_per_trial) == (0.5, 2)
    assert resources(trials_per_gpu=4).gpus_per_trial == 0.25
    assert (resources(trials_per_gpu="auto").gpus_per_trial, resources().trials_per_gpu) == (None, None)
    with pytest.raises(UsageError, match="num_gpus, num_processes and num_nodes follow from it"):
        resources(trials_per_gpu=2, num_gpus=1)
    with pytest.raises(UsageError, match="trials_per_gpu must be a whole number of at least 1, got 'many'"):
        resources(trials_per_gpu="many")


def share(**values):
    """A Share of trials with these resources."""
    tune = parse_tune({"resources_per_trial": values})
    return Share(SimpleNamespace(tune=tune))


@pytest.mark.parametrize(
    ("values", "worker", "of_a_node", "nodes"),
    [
        ({"num_gpus": 8}, (16, 4), (16, 4), 2),
        ({"num_gpus": 6}, (16, 4), (16, 3), 2),
        ({"num_gpus": 4}, (16, 4), (16, 4), 1),
        ({"num_gpus": 0.5}, (16, 4), (2, 0.5), 1),
        ({"num_gpus": 4, "num_nodes": 2}, (16, 4), (8, 2), 2),
        ({"num_nodes": 2}, (16, 4), (4, 1), 2),
        ({"num_nodes": 2}, (4, 0), (1, 0), 2),
        ({"num_nodes": 2, "num_processes": 4, "num_cpus": 4}, (8, 0), (2, 0), 2),
    ],
)
def test_a_trial_of_several_nodes_has_the_same_of_each(values, worker, of_a_node, nodes):
    shared = share(**values)
    assert shared.divide({"cpus": worker[0], "gpus": worker[1]}) == of_a_node
    assert shared.nodes == nodes


def test_what_cannot_be_spread_alike_is_refused():
    with pytest.raises(UsageError, match="num_processes 3 is for the whole trial, and cannot be spread alike over 2"):
        share(num_nodes=2, num_processes=3)
    with pytest.raises(UsageError, match="num_gpus 5 cannot be spread alike over 2 nodes of 4; take a multiple of 2"):
        share(num_gpus=5).divide({"cpus": 8, "gpus": 4})
    with pytest.raises(ClusterError, match="asks for 16 CPUs and 0 GPUs of a node, which has 8 and 0"):
        share(num_nodes=2, num_cpus=32).divide({"cpus": 8, "gpus": 0})


def test_the_price_of_trials_over_several_nodes_is_not_known(config):
    spread = dataclasses.replace(config, tune=parse_tune({"resources_per_trial": {"num_nodes": 2}}))
    with pytest.raises(UsageError, match="trials over 2 nodes"):
        find_place(spread, REQUEST, 16, 2)


@pytest.mark.parametrize(
    ("fits", "nodes", "trials"),
    [([2, 1], 1, 3), ([2, 2], 2, 2), ([4, 1, 1], 2, 2), ([9], 2, 0), ([1, 1, 1], 2, 1), ([], 2, 0)],
)
def test_parts_of_a_trial_are_on_different_hosts(fits, nodes, trials):
    assert count_spread(fits, nodes) == trials
