"""checkpoint_budget_gb: what goes when the checkpoints of a sweep take too much, and what never does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpo.cluster.housekeeping import CheckpointBudget
from hpo.errors import UsageError
from hpo.layout import SweepDirectory
from hpo.records import Journal, SweepState
from hpo.trial.checkpoint import Store
from hpo.tuneconfig import parse_tune

SIZE = 400_000  # bytes of the weights of one checkpoint


class ToySweep:
    """Trials that write real checkpoints and report, without training."""

    def __init__(self, root: Path, gigabytes: float) -> None:
        self.directory, self.said = SweepDirectory(root), []
        self.state = SweepState()
        self.budget = CheckpointBudget(self.directory, gigabytes, self.said.append)
        self.journal = Journal(self.directory.journal)
        self.write("sweep", metric="accuracy", mode="max")
        self.write("attempt_started", attempt="a", host="h")

    def write(self, kind, **fields):
        event = self.journal.append(kind, **fields)
        self.state.apply(event)
        self.budget.watch(event, self.state)

    def train(self, trial, values, finish=True):
        number = int(trial)
        self.write("suggested", trial=trial, number=number, params={}, origin="random")
        self.write("started", trial=trial, node="h")
        self.directory.checkpoints(trial).mkdir(parents=True)
        store = Store(self.directory.checkpoints(trial), keep=2, mode="max")
        for epoch, value in enumerate(values, start=1):
            path = store.save(epoch, value, {"w": torch.rand(SIZE // 4)}, {"optimiser": torch.rand(SIZE // 2)}, {})
            self.write("reported", trial=trial, epoch=epoch, metrics={"accuracy": value}, attempt="a")
            self.write("checkpointed", trial=trial, epoch=epoch, path=str(path.relative_to(self.directory.root)))
        if finish:
            self.write("finished", trial=trial, state="completed", reason="all epochs")

    def kept(self, trial):
        return sorted(path.name for path in self.directory.checkpoints(trial).iterdir())

    def bytes(self):
        seen = {path.stat().st_ino: path.stat().st_size for path in self.directory.root.glob("trials/**/*.*")
                if path.is_file()}  # fmt: skip
        return sum(seen.values())


def test_without_need_nothing_goes(tmp_path):
    sweep = ToySweep(tmp_path, 1.0)
    sweep.train("0000", [0.1, 0.2, 0.3])
    assert sweep.kept("0000") == ["best-0002", "best-0003", "last-0002", "last-0003"]
    assert sweep.said == []


def test_the_least_needed_goes_first_and_the_best_stays(tmp_path):
    sweep = ToySweep(tmp_path, 0.0075)  # a trial of two epochs takes 2 x (0.4 + 0.8) MB
    for number, quality in enumerate([0.5, 0.9, 0.1, 0.4, 0.3]):
        sweep.train(f"{number:04d}", [quality - 0.05, quality])
    assert sweep.bytes() <= 7_500_000
    assert sweep.kept("0001")[:2] == ["best-0001", "best-0002"]
    assert [name for name in sweep.kept("0002") if name.startswith("last")] == []
    assert "to keep within checkpoint_budget_gb 0.0075" in sweep.said[0]


def test_trials_that_go_on_keep_everything_and_it_is_said_once(tmp_path):
    sweep = ToySweep(tmp_path, 0.001)
    sweep.train("0000", [0.1, 0.2])
    sweep.train("0001", [0.3, 0.4], finish=False)
    assert sweep.kept("0000") == []
    assert sweep.kept("0001") == ["best-0001", "best-0002", "last-0001", "last-0002"]
    assert sum("over checkpoint_budget_gb" in line for line in sweep.said) == 1


def test_what_is_not_ours_stays(tmp_path):
    sweep = ToySweep(tmp_path, 0.001)
    sweep.train("0000", [0.5], finish=False)
    notes = sweep.directory.checkpoints("0000") / "last-0001" / "notes.txt"
    notes.write_text("mine")
    sweep.write("finished", trial="0000", state="stopped", reason="rung")
    sweep.train("0001", [0.9])
    assert notes.read_text() == "mine"


def test_a_resumed_sweep_counts_what_is_there(tmp_path):
    sweep = ToySweep(tmp_path, 1.0)
    sweep.train("0000", [0.1, 0.2])
    sweep.train("0001", [0.3, 0.4])
    sweep.budget = CheckpointBudget(sweep.directory, 0.001, sweep.said.append)
    sweep.write("attempt_started", attempt="b", host="h")
    assert sweep.kept("0000") == []
    assert sweep.kept("0001") == ["best-0001", "best-0002"]


@pytest.mark.parametrize("value", [0, -1, "5GB", True, float("inf"), float("nan")])
def test_a_wrong_budget_is_refused(value):
    with pytest.raises(UsageError, match="checkpoint_budget_gb must be a number of gigabytes"):
        parse_tune({"checkpoint_budget_gb": value})
