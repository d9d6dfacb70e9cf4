"""The price: paces are measured by real updates, and a sweep that is simulated costs what its trials cost."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from small_sweeps import MODEL, PRICED, make_shards

from hpo.cluster.request import SlurmRequest
from hpo.config import load_sweep
from hpo.errors import UsageError
from hpo.price.forecast import bounds, forecast, hosts_by
from hpo.price.measured import Measured, Pace, Place
from hpo.price.quote import find_place, parse_by, quote_sweep
from hpo.price.start import parse_start
from launch import check

FAST, SLOW = 1.0, 4.0  # seconds of an epoch


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("price")
    make_shards(folder, 16)
    (folder / "sweep.yaml").write_text(PRICED)
    return folder / "sweep.yaml"


def measured(sweep_file, *overrides, at_once=2, request=None):
    """Paces as if they had been measured: nothing but updates takes time."""
    found = Measured(load_sweep(sweep_file, overrides), Place(request, 1, at_once))
    found.paces = [
        Pace("cpu", 10**6, 10**8, 0.0, (SLOW if case[MODEL] == "test_resnet" else FAST) / 10, 10, 0.0, 0.0, 1.0)
        for case in found.cases
    ]
    return found


def price(sweep_file, *overrides, nodes=1, **options):
    found = measured(sweep_file, *overrides, **options)
    return forecast(found._config, found, nodes, worlds=5)


def test_without_early_stopping_every_epoch_is_paid_for(sweep_file):
    found = price(sweep_file, "scheduler=FIFO", f"{MODEL}=test_vit")
    assert found.epochs.low == found.epochs.high == 12 * 9
    assert found.work_s.middle == pytest.approx(12 * 9 * FAST, rel=0.2)  # and an epoch's way through Ray
    assert found.wall_s.middle > found.work_s.middle / 2
    assert (found.nodes, found.places) == (1, 2)


def test_each_kind_is_compiled_once(sweep_file):
    found = measured(sweep_file, "scheduler=FIFO")
    plain = forecast(found._config, found, 1, worlds=5)
    least, most = bounds(found._config, found)
    found.paces = [dataclasses.replace(pace, compile_s=1000.0) for pace in found.paces]
    compiled = forecast(found._config, found, 1, worlds=5)
    assert compiled.work_s.middle - plain.work_s.middle == pytest.approx(2000, rel=0.3)  # hosts differ by a fifth
    assert bounds(found._config, found) == (least + 2000, most + 2000)


def test_asha_costs_less_within_its_bounds_and_the_same_each_time(sweep_file):
    found = measured(sweep_file)
    least, most = bounds(found._config, found)
    cost = forecast(found._config, found, 1, worlds=5)
    assert least < cost.work_s.low <= cost.work_s.middle <= cost.work_s.high < most * 1.2
    assert cost.epochs.high < 12 * 9
    assert cost == forecast(found._config, found, 1, worlds=5)


def test_more_hosts_are_sooner_done_and_enough_of_them_are_found(sweep_file):
    found = measured(sweep_file, "scheduler=FIFO")
    one, four = (forecast(found._config, found, nodes, worlds=5).wall_s.high for nodes in (1, 4))
    assert four < one
    enough, tried = hosts_by(found._config, found, four, 16)
    assert 1 < enough.nodes <= 4
    assert len(tried) > 1
    assert hosts_by(found._config, found, 1.0, 16)[0] is None


def test_a_kind_that_was_not_measured_takes_the_nearest(sweep_file):
    found = measured(sweep_file)
    place = next(i for i, case in enumerate(found.cases) if case[MODEL] == "test_vit")
    params = {**found._config.space.constants, MODEL: "test_vit", "optim.lr": 0.01}
    assert found.pace(params).epoch_s == FAST
    assert found.pace({**params, "model.timm_image.image_size": 48}).epoch_s == FAST
    found.paces[place] = None
    assert found.pace(params).epoch_s == SLOW
    assert [case[MODEL] for case in found.missing] == ["test_vit"]


def test_real_updates_are_measured_and_remembered(sweep_file, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arguments = [str(sweep_file), "--cluster", "local", "--price", "--json"]
    assert check.main(arguments) == 0
    said = capsys.readouterr()
    price = json.loads(said.out)["price"]
    assert "measuring 2 kinds" in said.err
    assert {kind["kind"][MODEL] for kind in price["kinds"]} == {"test_resnet", "test_vit"}
    for kind in price["kinds"]:
        pace = kind["pace"]
        assert pace["updates"] > 0
        assert 10**5 < pace["parameters"] < 10**6
        assert pace["memory_bytes"] > 10**8
        assert 0 < pace["update_s"] * pace["updates"] < pace["epoch_s"]
    assert price["least_s"] < price["forecast"]["work_s"]["middle"]
    assert check.main(arguments[:-1]) == 0
    said = capsys.readouterr()
    assert "measuring" not in said.err  # from the cache
    assert "wall time" in said.out
    assert "CPU-hours" in said.out


def test_an_unknown_gpu_asks_for_the_probe(sweep_file):
    request = SlurmRequest(partition="gpu", nodes=2, gpus_per_node=4, cpus_per_task=32)
    config = load_sweep(sweep_file, ["resources_per_trial={num_gpus: 1}"])
    place = find_place(config, request, 32, 4)
    assert place.at_once == 4
    with pytest.raises(UsageError, match="add --probe"):
        quote_sweep(config, place, (32, 4), probe=None, by=None, most=4, say=print)
    assert dataclasses.replace(place, cpus=4).name != place.name


def test_times_by_which():
    now = time.time()
    assert parse_by("6:00:00", now) == now + 6 * 3600
    assert parse_by("2-0", now) == now + 2 * 86400
    assert parse_by("2999-01-02T08:00", now) == time.mktime((2999, 1, 2, 8, 0, 0, 0, 0, -1))
    for text, words in (("soon", "no time"), ("2001-01-01T00:00", "past"), ("2999-13-01T00:00", "no date")):
        with pytest.raises(UsageError, match=words):
            parse_by(text, now)


def test_slurms_word_on_the_start():
    said = "sbatch: Job 337 to start at 2026-11-24T19:22:02 using 1 processors on nodes node1 in partition gpu\n"
    assert parse_start(said) == (time.mktime((2026, 11, 24, 19, 22, 2, 0, 0, -1)), "")
    assert parse_start("allocation failure: Requested node configuration is not available\n") == (
        None, "Requested node configuration is not available")  # fmt: skip
