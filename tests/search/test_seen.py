"""What `why` says a model knew is what it was given, told from the journal alone."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from hpo.config import SweepConfig
from hpo.records import Journal
from hpo.results.read import open_results, read_results
from hpo.results.why import explain_trial
from hpo.search.bayes import gather
from hpo.search.sweep import Sweep
from hpo.space import parse_space
from hpo.tuneconfig import TuneConfig

SPACE = parse_space({"optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3}, "optim.max_epochs": 9})


class Watched(Sweep):
    """Notes how many trials had come to each rung, and how many had no value, at each suggestion."""

    def _suggestion(self, number):
        rungs = [len(seen.values) for seen in self._seen]
        waiting = len(gather(SPACE, self._seen, True).busy)
        self.knew = getattr(self, "knew", {}) | {f"{number:04d}": (rungs, waiting)}
        return super()._suggestion(number)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("run")
    config = SweepConfig(name="s", data=Path("d"), task="classification", metric="val_accuracy", mode="max", seed=1,
                         space=SPACE, tune=TuneConfig(num_trials=40, startup_trials=4))  # fmt: skip
    journal = Journal(folder / "journal.jsonl")
    sweep = Watched(config, journal, "a")
    sweep.start_attempt(job="", host="h", nodes=1)
    workers = [None, None, None]
    while any(workers) or not sweep.done:
        for place, trial in enumerate(workers):
            if trial is None:
                if (trial := sweep.next_trial()) is not None:
                    sweep.start_trial(trial.id, "n")
            elif trial.number == 5:
                sweep.fail_trial(trial.id, "trial", "it cannot be")
                trial = None
            else:
                epoch = trial.epochs + 1
                lr = trial.params["optim.lr"]
                value = math.nan if lr > 0.08 else math.exp(-((math.log10(lr) + 2) ** 2)) * (1 - math.exp(-epoch / 3))
                trial = trial if sweep.report(trial.id, epoch, {"val_accuracy": value}) else None
            workers[place] = trial
    journal.close()
    return read_results(open_results(folder)), sweep


def test_why_lists_what_the_model_was_given(swept):
    results, sweep = swept
    models = [row for row in results.rows if row.origin == "model"]
    assert {row.rung for row in models} >= {1, 2}  # both views took turns
    for row in models:
        text = "\n".join(explain_trial(results, row))
        rungs, waiting = sweep.knew[row.trial]
        told = {int(rung): int(number) for number, rung in re.findall(r"It knew (\d+) trials? at rung (\d+):", text)}
        assert told == {rung: rungs.count(rung) for rung in set(rungs) if rung >= row.rung}
        assert sum(told.values()) == int(re.match(r"\d+", row.note)[0])
        listed = re.search(r"Without a value then: (.*)\.", text)
        assert (listed[1].count(",") + 1 if listed else 0) == waiting


def test_the_best_comes_first_and_what_came_later_is_not_there(swept):
    results, _ = swept
    last = max((row for row in results.rows if row.origin == "model"), key=lambda row: row.number)
    first = min((row for row in results.rows if row.origin == "model"), key=lambda row: row.number)
    lines = [line for line in explain_trial(results, last) if "at rung 3" in line and "It knew" in line]
    values = [float(value) for value in re.findall(r"(\d\.\d+) \(", lines[0])]
    assert values == sorted(values, reverse=True)
    early = " ".join(line for line in explain_trial(results, first) if "It knew" in line or "Without a value" in line)
    named = re.findall(r"\((\d{4})\)", early)
    assert named
    assert all(int(trial) < first.number for trial in named)


def test_a_random_trial_tells_nothing_of_the_kind(swept):
    results, _ = swept
    row = next(row for row in results.rows if row.origin == "random")
    assert "It knew" not in "\n".join(explain_trial(results, row))
