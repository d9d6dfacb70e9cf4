"""The other views of launch/results.py: best, trial, why, failures, log, compare, --watch, --csv, sort and filter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpo.records import Journal
from hpo.results.ledger import ledger_line, read_ledger
from hpo.results.live import live_lines
from hpo.results.read import open_results, read_results
from hpo.results.report import write_report
from launch.results import main

ROOT = Path(__file__).resolve().parents[2]
Show = Callable[..., tuple[int, str, str]]


@pytest.fixture
def show(call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Show:
    monkeypatch.setenv("COLUMNS", "160")

    return partial(call, main)


def test_best_is_the_configuration_alone(all_fates: Path, show: Show) -> None:
    code, output, _ = show(all_fates, "best")
    assert code == 0
    assert output.startswith("hyperparameters:\n")
    assert "  optim.lr: 0.005\n" in output
    assert json.loads(show(all_fates, "best", "--json")[1])["trials"][0]["trial"] == "0001"


def test_trial_is_what_the_flag_was(all_fates: Path, show: Show) -> None:
    assert show(all_fates, "trial", "2") == show(all_fates, "--trial", "2")
    assert show(all_fates, "trial", "best")[1].startswith("Trial 0001: rank 1 of 4")


def test_why_names_the_rung_the_cutoff_and_the_company(all_fates: Path, show: Show) -> None:
    code, output, _ = show(all_fates, "why", "2")
    assert code == 0
    assert (
        "Rung 1 (epoch 2): stopped with 0.4100, rank 3 of 3; to go on it had to beat 0.5200 (the best 1/3 go on)."
        in (output)
    )
    assert "There before it: 0.6100 (0001)." in output
    assert "lr 0.0001 (default 0.001), optim_type sgd (default adamw)" in output
    assert "rank 4 of 4 trials now, 0.4525 behind" in output
    assert "drawn at random" in output
    assert "The Bayesian searcher's model suggested it" in show(all_fates, "why", "5")[1]
    assert "val_accuracy was not finite, so it was stopped at once" in show(all_fates, "why", "3")[1]
    failed = show(all_fates, "why", "4")[1]
    assert "It failed (out_of_memory: CUDA out of memory: tried 4 GiB) and was run again." in failed
    assert "so no rank" in failed


def test_failures_by_cause_with_every_trial(all_fates: Path, show: Show) -> None:
    output = show(all_fates, "failures")[1]
    assert output.splitlines()[0] == "2 x out_of_memory"
    assert "  trial 0004 on node01 (ran again): CUDA out of memory: tried 4 GiB" in output
    assert "  trial 0004 on node01 (gave up): CUDA out of memory: tried 2 GiB" in output


def test_logs(all_fates: Path, show: Show) -> None:
    (all_fates / "trials" / "0001").mkdir(parents=True)
    (all_fates / "trials" / "0001" / "log.txt").write_text("".join(f"line {n}\x1b[31m\n" for n in range(9)))
    assert show(all_fates, "log", "1", "--lines", "2")[1].splitlines()[1:] == ["line 7?[31m", "line 8?[31m"]
    (all_fates / "attempts" / "a2").mkdir(parents=True)
    (all_fates / "attempts" / "a2" / "driver.log").write_text("Ray is ready\n")
    assert show(all_fates, "log")[1].splitlines()[1:] == ["Ray is ready"]
    code, _, errors = show(all_fates, "log", "2")
    assert code == 2
    assert "0002/log.txt does not exist" in errors


def test_sort_filter_and_columns(all_fates: Path, show: Show) -> None:
    def trials(*options: str) -> list[str]:
        return [line.split(",")[0] for line in show(all_fates, "--csv", "--columns", "trial", *options)[1].split()[1:]]

    assert trials() == ["0001", "0000", "0005", "0002", "0003", "0004"]
    assert trials("--sort", "lr") == ["0002", "0000", "0004", "0001", "0005", "0003"]
    assert trials("--sort=-lr")[:2] == ["0003", "0005"]
    assert trials("--filter", "lr<=1e-3") == ["0000", "0002", "0004"]
    assert trials("--filter", "lr<=1e-3", "--filter", "state!=failed") == ["0000", "0002"]
    assert trials("--filter", "val_accuracy>0.5", "--filter", "optim_type=ADAMW") == ["0001", "0000", "0005"]
    assert trials("--filter", "reason~memory") == ["0004"]
    assert trials("--sort", "train_loss") == ["0001", "0005", "0000", "0002", "0003", "0004"]
    table = show(all_fates, "--columns", "trial,optim.lr,epochs", "--sort", "lr", "--top", "2")[1].splitlines()
    assert [line.split() for line in table[:3]] == [["trial", "optim.lr", "epochs"], ["0002", "0.0001", "2"],
                                                    ["0000", "0.001", "6"]]  # fmt: skip
    assert table[3] == "(4 more trials: --all)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sort", "lrr"), "no column 'lrr'. Did you mean 'lr'?"),
        (("--filter", "model=x"), "no column 'model'. Did you mean 'model.timm_image.checkpoint_name'?"),
        (("--filter", "lr"), "takes COLUMN OPERATOR VALUE"),
        (("--filter", "state<x"), "'x' is not a number"),
        (("why",), "why needs a trial"),
        (("failures", "7"), "'7' is too much"),
        (("compare",), "needs two directories"),
    ],
)
def test_mistakes_are_told_on_one_line(all_fates: Path, show: Show, options: tuple[str, ...], message: str) -> None:
    code, output, errors = show(all_fates, *options)
    assert (code, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_pandas_reads_the_csv(all_fates: Path, show: Show, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "trials.csv").write_text(show(all_fates, "--csv")[1])
    frame = pandas.read_csv(tmp_path / "trials.csv", dtype={"trial": str}).set_index("trial")
    assert len(set(frame.columns)) == len(frame.columns)
    assert frame.loc["0001", "val_accuracy"] == 0.8625
    assert frame.loc["0001", "optim.lr"] == 0.005
    assert frame.loc["0004", ["rank", "val_accuracy", "train_loss"]].isna().all()
    assert frame.loc["0003", "state"] == "diverged"
    assert frame.loc["0001", "train_loss"] == pytest.approx(1 / 6)
    assert frame["epochs"].tolist() == [6, 6, 6, 2, 1, 0]


def test_two_sweeps_side_by_side(all_fates: Path, running_sweep: Path, show: Show) -> None:
    code, output, _ = show("compare", all_fates, running_sweep)
    assert code == 0
    lines = {line[:20].strip(): line.split() for line in output.splitlines()}
    assert lines["best val_accuracy"][2:] == ["0.8625", "0.8625"]
    assert lines["status"][1:] == ["ended", "running"]
    assert output == show(all_fates, "compare", running_sweep)[1]
    facts = json.loads(show("compare", all_fates, running_sweep, "--json")[1])["facts"]
    assert facts["trials"] == {str(all_fates): "6", str(running_sweep): "7"}


def test_sweeps_of_different_metrics_are_not_compared(all_fates: Path, new_sweep: Any, show: Show) -> None:
    code, _, errors = show("compare", all_fates, new_sweep("other", metric="val_rmse", mode="min").close())
    assert code == 2
    assert "different metrics" in errors


def test_several_directories_are_shown_one_after_the_other(all_fates: Path, running_sweep: Path, show: Show) -> None:
    output = show(all_fates, running_sweep, "--top", "1")[1]
    assert output.count("Sweep clothing") == 2
    assert output.index("6 of 6 trials") < output.index("7 of 8 trials")


def test_the_ledger_adds_up(all_fates: Path, show: Show) -> None:
    for attempt in ("a1", "a2"):
        (all_fates / "attempts" / attempt).mkdir(parents=True)
        (all_fates / "attempts" / attempt / "head.json").write_text(json.dumps({"cpus": 8, "gpus": 2, "nodes": 2}))
    results = read_results(open_results(all_fates))
    ledger = read_ledger(results)
    seconds = {row.trial: row.seconds for row in results.rows}
    assert ledger.unit == "GPU-hours"
    assert ledger.allocated == pytest.approx(sum(a.seconds for a in results.attempts) * 2 * 2 / 3600)
    assert ledger.stopped == pytest.approx(seconds["0002"] / 3600)
    assert ledger.failed == pytest.approx((seconds["0003"] + seconds["0004"]) / 3600)
    assert ledger.useful + ledger.stopped + ledger.failed + ledger.idle == pytest.approx(ledger.allocated)
    assert ledger.saved == pytest.approx(2 * seconds["0002"] / 3600)  # 2 of 6 epochs were trained
    assert "GPU-hours: " in show(all_fates)[1]
    assert "on trials that went the whole way, " in ledger_line(ledger)
    assert "on trials that went the whole way or are on it, " in ledger_line(replace(ledger, over=False))


def test_watch_follows_a_sweep_to_its_rest(running_sweep: Path, new_sweep: Any) -> None:
    """A real process watches while a real journal grows, past an attempt that another one follows by itself."""
    command = [sys.executable, str(ROOT / "launch" / "results.py"), str(running_sweep), "--watch", "1"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    first = [watching.stdout.readline() for _ in range(3)]
    assert "5 of 8 trials ended, running" in first[1]
    sweep = new_sweep("running")
    sweep.now = time.time()
    sweep.finish("0005", "completed", "max_epochs")
    sweep.event("attempt_ended", attempt="a1", reason="walltime")
    said = running_sweep / "attempts" / "a1" / "exit.json"
    said.parent.mkdir(parents=True)
    said.write_text('{"code": 75, "again": false, "queued": true}')
    shown = iter(watching.stdout.readline, "")
    assert any("6 of 8 trials ended, unfinished" in line for line in shown)
    sweep.start_attempt("a2")
    assert any("6 of 8 trials ended, running" in line for line in shown)
    (said.parents[1] / "a2").mkdir()
    (said.parents[1] / "a2" / "exit.json").write_text('{"code": 75, "again": false, "queued": false}')
    sweep.event("attempt_ended", attempt="a2", reason="stopped on request (SIGTERM)")
    sweep.close()
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 75
    assert "6 of 8 trials ended, unfinished" in rest
    assert "--resume" in rest.splitlines()[-1]


def test_the_time_left_is_a_range_and_not_said_too_early(running_sweep: Path, new_sweep: Any) -> None:
    results = read_results(open_results(running_sweep))
    lines = live_lines(results, (results.last_event_at or 0) + 1)
    assert "left" in lines[1]
    assert "1 trial at work on node01; 2 workers" in lines
    assert "  0005 epoch 3/6" in lines
    fresh = new_sweep("fresh")
    fresh.start_attempt()
    fresh.train(fresh.suggest(0, "default"), [0.5])
    early = read_results(open_results(fresh.close()))
    assert "left" not in live_lines(early, (early.last_event_at or 0) + 1)[1]


def test_a_moved_read_only_copy_says_the_same_in_every_view(all_fates: Path, tmp_path: Path, show: Show) -> None:
    copy = shutil.copytree(all_fates, tmp_path / "copy")
    for view in (("best",), ("why", "2"), ("failures",), ("--csv",), ("--sort", "lr")):
        assert show(copy, *view) == show(all_fates, *view)


def test_the_front_of_several_objectives(all_fates: Path, show: Show) -> None:
    path, settings = all_fates, json.loads((all_fates / "resolved.json").read_text())
    (path / "resolved.json").write_text(json.dumps({**settings, "objectives": ["cost"]}))
    journal = Journal(path / "journal.jsonl")
    for number, accuracy, cost in ((6, 0.7, 2048.0), (7, 0.6, 4096.0), (8, 0.2, 1.5)):
        trial = f"{number:04d}"
        journal.append("suggested", trial=trial, number=number, params={"optim.lr": 0.01}, origin="random")
        journal.append("reported", trial=trial, attempt="a1", epoch=1, metrics={"val_accuracy": accuracy, "cost": cost})
        journal.append("decided", trial=trial, epoch=1, rung=1, action="continue", value=accuracy, cutoff=None, rank=2,
                       of=4)  # fmt: skip
    journal.close()
    output = show(path)[1]
    assert "Pareto front of val_accuracy, cost: 0006 (0.7000, 2048); 0008 (0.2000, 1.5)." in output
    assert "best 1/3 go on" in show(path, "why", "7")[1]
    assert "by how many are better in all of val_accuracy, cost" in show(path, "why", "7")[1]
    document = json.loads(show(path, "--json")[1])
    assert (document["front"], document["objectives"]) == (["0006", "0008"], ["cost"])
    page = write_report(open_results(path)).read_text()
    assert "Value of each trial by its cost" in page
    assert page.count("Pareto front") == 2


def test_a_sweep_that_is_long_silent_is_doubted_instead_of_foretold(running_sweep: Path) -> None:
    results = read_results(open_results(running_sweep))
    last = results.last_event_at or 0
    assert not any("last event" in line for line in live_lines(results, last + 60))
    lines = live_lines(results, last + 7200)
    assert "left" not in lines[1]
    assert "last event 2 h 00 min ago; that is long: if the job is gone, submit.py --resume goes on" in lines


@pytest.mark.parametrize(
    "more", [["--json"], ["--csv"], ["why", "1"], ["best"], ["--filter", "lr<1"], ["--sort", "lr"]]
)
def test_watch_takes_nothing_else(running_sweep: Path, show: Show, more: list[str]) -> None:
    code, _, errors = show(running_sweep, "--watch", "1", *more)
    assert code == 2
    assert "--watch shows a sweep's progress and nothing else" in errors


def test_failures_name_those_that_diverged(all_fates: Path, show: Show) -> None:
    _, output, _ = show(all_fates, "failures")
    assert output.splitlines() == [
        "2 x out_of_memory",
        "  trial 0004 on node01 (ran again): CUDA out of memory: tried 4 GiB",
        "  trial 0004 on node01 (gave up): CUDA out of memory: tried 2 GiB",
        "1 x diverged",
        "  trial 0003 on node01: diverged at epoch 1 of 6: val_accuracy was not finite at epoch 1",
    ]


def test_columns_that_were_asked_for_are_shown_whole(
    all_fates: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, output, _ = show(all_fates, "--columns", "trial,lr,reason", "--filter", "state=stopped")
    reason = "stopped at epoch 2 of 6: 0.41 was rank 3 of 3, cutoff 0.52 for the best third"
    assert output.splitlines()[1] == f"0002   0.0001  {reason}"
