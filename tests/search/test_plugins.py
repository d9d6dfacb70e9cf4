"""Searchers and schedulers of Ray Tune in a sweep without a cluster: they work, and go on after a kill."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from hpo.config import SweepConfig, parse_yaml
from hpo.errors import ClusterError, UsageError
from hpo.layout import SweepDirectory
from hpo.plugins import read_pickle
from hpo.records import Journal, SweepState, read_events
from hpo.search import plugins
from hpo.search.ray_plugins import dump, rehearse_plugins
from hpo.space import parse_space
from hpo.tuneconfig import parse_tune

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::UserWarning")
ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 9
SPACE = {
    "optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.optim_type": "sgd"}},
    "optim.warmup_steps": {"randint": [1, 4]},
    "model.timm_image.train_transforms": {"choice": [["random_crop"], ["random_crop", "random_horizontal_flip"]]},
    "optim.max_epochs": EPOCHS,
}
OPTUNA = {"class": "ray.tune.search.optuna.OptunaSearch"}
HYPEROPT = {"class": "ray.tune.search.hyperopt.HyperOptSearch", "n_initial_points": 4}
VARIANTS = {"class": "ray.tune.search.basic_variant.BasicVariantGenerator"}
LIMITED = {"class": "ray.tune.search.ConcurrencyLimiter", "searcher": OPTUNA, "max_concurrent": 2}
CMA = {**OPTUNA, "sampler": {"class": "optuna.samplers.RandomSampler", "seed": 3}}
ASHA = {"class": "ray.tune.schedulers.ASHAScheduler", "grace_period": 2, "max_t": EPOCHS}
MEDIAN = {"class": "ray.tune.schedulers.MedianStoppingRule", "time_attr": "training_iteration", "grace_period": 2}
PAUSING = {**MEDIAN, "hard_stop": False}
HYPERBAND = {"class": "ray.tune.schedulers.HyperBandScheduler", "max_t": EPOCHS}
SEARCHERS = {"optuna": OPTUNA, "hyperopt": HYPEROPT, "variants": VARIANTS, "limited": LIMITED, "sampler": CMA}
SCHEDULERS = {"asha": ASHA, "median": MEDIAN, "pausing": PAUSING, "hyperband": HYPERBAND}
PAIRS = [
    pair for pair in itertools.product(SEARCHERS, SCHEDULERS) if pair != ("limited", "hyperband")
]  # no bracket of 2


def config(trials=14, space=SPACE, attachments=None, **tune):
    tune = {"searcher": "random", "scheduler": "FIFO", "num_trials": trials} | tune
    return SweepConfig(
        name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
        space=parse_space(space), tune=parse_tune(tune), attachments=attachments or {},
    )  # fmt: skip


class Killed(Exception):
    pass


def train(params, epoch):
    if params["optim.lr"] > 0.07:
        return math.nan  # diverges
    return math.exp(-((math.log10(params["optim.lr"]) + 2) ** 2)) * (1 - math.exp(-epoch / 3))


def attempt(folder, settings, events=None, workers=3, told=None):
    """One attempt with some workers, killed before event number `events` is followed by anything. `told` is called for
    each search of the sweep's next trial."""
    journal = Journal(folder / "journal.jsonl")
    sweep = plugins.open_sweep(settings, journal, "a", SweepDirectory(folder))

    def listener(event):
        if events is not None and event["n"] + 1 >= events:
            raise Killed

    sweep.listener = listener
    running = []
    try:
        sweep.start_attempt(job="", host="h", nodes=1)
        while True:
            while len(running) < workers and (trial := sweep.next_trial()):
                sweep.start_trial(trial.id, "n")
                running.append([trial, trial.checkpoint[0] if trial.checkpoint else 0])
            assert len({trial.id for trial, _ in running}) == len(running), "a trial was handed out twice"
            if not running:
                break
            trial, epoch = running.pop(0)
            metrics = {"val_accuracy": train(trial.params, epoch + 1), "seconds": 1.0}
            if sweep.report(trial.id, epoch + 1, metrics, checkpoint=f"c{epoch + 1}"):
                running.append([trial, epoch + 1])
        assert sweep.done
        sweep.end_attempt("all trials have ended")
    except Killed:
        pass
    finally:
        journal.close()
    return sweep


def state_of(folder):
    return SweepState(read_events(folder / "journal.jsonl"))


@pytest.mark.parametrize(("searcher", "scheduler"), PAIRS)
def test_each_searcher_with_each_scheduler_ends_with_all_trials(tmp_path, searcher, scheduler):
    settings = config(searcher=SEARCHERS[searcher], scheduler=SCHEDULERS[scheduler])
    assert rehearse_plugins(settings) == []
    state = attempt(tmp_path, settings).state
    assert len(state.trials) == 14
    assert all(trial.finished for trial in state.trials.values())
    counts = Counter(trial.state for trial in state.trials.values())
    assert counts["completed"] >= 2
    assert counts["stopped"] or scheduler == "pausing"  # a paused one goes on when the others are done
    paused = [e for t in state.trials.values() for e in t.judgements if e["action"] == "pause"]
    assert bool(paused) == (scheduler in ("pausing", "hyperband"))
    assert [trial.origin for trial in state.trials.values()] == ["default"] + ["searcher"] * 13
    for trial in state.trials.values():
        assert isinstance(trial.params["model.timm_image.train_transforms"], list)
        assert type(trial.params["optim.warmup_steps"]) is int
        assert ("optim.momentum" in trial.params) == (trial.params["optim.optim_type"] == "sgd")
        if trial.state != "diverged":
            assert sorted(trial.first) == list(range(1, trial.epochs + 1))  # a pause loses no epoch


def test_a_sweep_file_with_the_same_seed_is_the_same_search(tmp_path):
    outcomes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        attempt(tmp_path / name, config(searcher=OPTUNA, scheduler=HYPERBAND))
        outcomes.append([(t.params, t.state) for t in state_of(tmp_path / name).trials.values()])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("searcher", "scheduler"), [("optuna", "hyperband"), ("hyperopt", "median")])
def test_killed_anywhere_it_goes_on_to_the_same_end_where_the_class_draws_by_its_seed(tmp_path, searcher, scheduler):
    """Told the journal again, Ray's classes are in the state that they were in."""
    settings = config(6, searcher=SEARCHERS[searcher], scheduler=SCHEDULERS[scheduler])
    (tmp_path / "whole").mkdir()
    attempt(tmp_path / "whole", settings, workers=1)
    whole = state_of(tmp_path / "whole")
    for kill in range(3, whole.events, 11):
        folder = tmp_path / str(kill)
        folder.mkdir()
        attempt(folder, settings, events=kill, workers=1)
        attempt(folder, settings, workers=1)
        again = state_of(folder)
        assert [(t.params, t.state, t.epochs) for t in again.trials.values()] == [
            (t.params, t.state, t.epochs) for t in whole.trials.values()
        ], f"killed at event {kill}"


def test_an_instance_without_a_seed_goes_on_with_what_really_ran(tmp_path):
    """Its random numbers differ each time: told again it suggests something else, and is told the truth."""
    from ray.tune.search.optuna import OptunaSearch

    value, content = dump("searcher", OptunaSearch())
    settings = config(12, searcher=value, attachments={"searcher.pickle": content})
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "searcher.pickle").write_bytes(content)
    attempt(tmp_path, settings, events=40)
    before = state_of(tmp_path)
    assert 3 <= len(before.trials) < 12
    sweep = attempt(tmp_path, settings)
    for trial in before.trials.values():
        assert sweep.state.trials[trial.id].params == trial.params
    study = sweep._asked._searcher._ot_study
    told = {round(t.params["optim.lr"], 9): t.value for t in study.get_trials() if t.state.name == "COMPLETE"}
    for trial in sweep.state.trials.values():
        if trial.state == "completed":
            assert told[round(trial.params["optim.lr"], 9)] == trial.first[trial.epochs]["val_accuracy"]
    assert len(told) == sum(trial.state == "completed" for trial in sweep.state.trials.values())


def test_ours_and_rays_go_together(tmp_path):
    """bayes reads rungs, which are there whoever stops."""
    state = attempt(tmp_path, config(searcher="bayes", scheduler=MEDIAN)).state
    origins = Counter(trial.origin for trial in state.trials.values())
    assert origins["model"] >= 3
    assert any(trial.reason == "MedianStoppingRule" for trial in state.trials.values())
    (tmp_path / "b").mkdir()
    state = attempt(tmp_path / "b", config(searcher=HYPEROPT, scheduler="ASHA")).state
    assert any(trial.decisions and trial.decisions[-1]["action"] == "stop" for trial in state.trials.values())


def test_what_is_exhausted_ends_the_sweep(tmp_path):
    from ray.tune.search import Searcher

    class Two(Searcher):
        def __init__(self):
            super().__init__()
            self.left = 2

        def set_search_properties(self, metric, mode, config, **spec):
            self.space = config
            return True

        def suggest(self, trial_id):
            self.left -= 1
            return {name: domain.sample() for name, domain in self.space.items()} if self.left >= 0 else self.FINISHED

        def on_trial_complete(self, trial_id, result=None, error=False):
            pass

    value, content = dump("searcher", Two())
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "searcher.pickle").write_bytes(content)
    settings = config(searcher=value, attachments={"searcher.pickle": content})
    assert rehearse_plugins(settings) == []
    state = attempt(tmp_path, settings).state
    assert len(state.trials) == 3  # trial 0 is ours
    assert state.ended


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (
            {"searcher": {"class": "ray.tune.search.optuna.OptunaSearsh"}},
            "has no class OptunaSearsh. Did you mean 'Opt",
        ),
        ({"searcher": {"class": "ray.tune.search.optuma.X"}}, "ray.tune.search.optuma cannot be imported"),
        ({"searcher": {**OPTUNA, "sead": 3}}, "OptunaSearch has no argument 'sead'. Did you mean 'seed'"),
        ({"searcher": ASHA}, "AsyncHyperBandScheduler is no searcher of Ray Tune; it is a scheduler"),
        ({"searcher": {"class": "subprocess.Popen", "args": "true"}}, "Popen is no searcher of Ray Tune"),
        ({"searcher": {**OPTUNA, "sampler": {"class": "subprocess.Popen"}}}, "subprocess.Popen is not taken as an"),
        ({"searcher": {**OPTUNA, "metric": "loss", "mode": "min"}}, "OptunaSearch is for metric 'loss', trials are"),
        ({"searcher": {"class": "ray.tune.search.ax.AxSearch"}}, "searcher AxSearch cannot be made: .*Ax must be inst"),
        ({"scheduler": {**ASHA, "grace_period": 99}}, "AsyncHyperBandScheduler|ASHAScheduler cannot be made: Asser"),
        ({"scheduler": {**ASHA, "metric": "acc", "mode": "max"}}, "is for metric 'acc', trials are judged by 'val_acc"),
    ],
)
def test_what_cannot_work_is_refused_before_there_is_a_job(tune, message):
    with pytest.raises(UsageError, match=message) as refusal:
        rehearse_plugins(config(**tune))
    assert "\n" not in str(refusal.value)


def test_what_the_docs_show_can_be_made():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ray.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert rehearse_plugins(config(**parse_yaml(block, "ray.md")["hyperparameter_tune_kwargs"])) == []


def test_a_space_that_the_searcher_brought_itself_is_refused():
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    value, content = dump("searcher", OptunaSearch({"lr": tune.uniform(0, 1)}, metric="val_accuracy", mode="max"))
    with pytest.raises(UsageError, match="OptunaSearch has a space of its own.*give the space by hyperparameters"):
        rehearse_plugins(config(searcher=value, attachments={"searcher.pickle": content}))


def test_a_result_key_that_trials_do_not_give_is_told():
    [note] = rehearse_plugins(config(scheduler={**MEDIAN, "time_attr": "timesteps_total"}))
    assert "MedianStoppingRule looks for 'timesteps_total' in results" in note


def test_what_fails_inside_is_told_as_its_own(tmp_path):
    from ray.tune.schedulers import FIFOScheduler

    class Broken(FIFOScheduler):
        def on_trial_result(self, tune_controller, trial, result):
            return {}["nothing"]

    value, content = dump("scheduler", Broken())
    with pytest.raises(UsageError, match="Ray Tune's Broken failed in on_trial_result: KeyError: 'nothing'"):
        rehearse_plugins(config(scheduler=value, attachments={"scheduler.pickle": content}))
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "scheduler.pickle").write_bytes(content)
    with pytest.raises(ClusterError, match="Broken failed in on_trial_result"):
        attempt(tmp_path, config(scheduler=value))


def test_a_pickle_is_read_only_where_nobody_else_could_have_put_it(tmp_path, monkeypatch):
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    path = folder / "searcher.pickle"
    path.write_bytes(b"x")
    assert read_pickle(path) == b"x"
    with pytest.raises(UsageError, match="scheduler.pickle cannot be read .No such file"):
        read_pickle(folder / "scheduler.pickle")
    path.chmod(0o666)
    with pytest.raises(UsageError, match="searcher.pickle is not this user's alone .owner .*, mode 666."):
        read_pickle(path)
    path.chmod(0o600)
    folder.chmod(0o755)
    with pytest.raises(UsageError, match="secrets is not this user's alone"):
        read_pickle(path)
    folder.chmod(0o700)
    (folder / "link").symlink_to(path)
    with pytest.raises(UsageError, match="link cannot be read"):
        read_pickle(folder / "link")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="not this user's alone"):
        read_pickle(path)
