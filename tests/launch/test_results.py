"""launch/results.py on sweeps of every kind: what it prints, what it ends with, and what it does not need."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hpo.records import SweepState, read_events
from hpo.results.read import current_best_line, open_results, progress_line, read_results
from hpo.results.table import best_yaml
from launch.results import main, to_json

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"ray", "torch", "timm", "numpy", "pandas", "submitit", "ruamel.yaml", "h5py", "accelerate", "optuna"}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def show(call: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command and returns exit code, stdout and stderr."""

    return partial(call, main)


Show = Callable[..., tuple[int, str, str]]


def line_of(output: str, trial: str) -> str:
    return next(line for line in output.splitlines() if f"  {trial}  " in line)


def test_the_table_says_of_every_trial_how_it_ended_and_why(all_fates: Path, show: Show) -> None:
    code, output, errors = show(all_fates)
    assert (code, errors) == (0, "")
    assert "6 of 6 trials: 3 completed, 1 stopped, 1 diverged, 1 failed." in output
    rows = {trial: line_of(output, trial).split() for trial in ("0001", "0000", "0005", "0002", "0003", "0004")}
    assert [row[0] for row in rows.values()] == ["1", "2", "3", "4", "-", "-"]
    assert rows["0001"][2:8] == ["0.8625", "completed", "6/6", "mobilenetv3_small_050", "0.005", "adamw"]
    assert "rank 3/3, cutoff 0.52" in line_of(output, "0002")
    assert "val_accuracy was not finite at epoch 1" in line_of(output, "0003")
    assert "out_of_memory" in line_of(output, "0004")
    assert "Failed 2 x out_of_memory, last in trial 0004: CUDA out of memory: tried 2 GiB" in output
    assert output.rstrip().endswith("# everything on one page")


def test_the_default_stands_beside_the_winner(all_fates: Path, show: Show) -> None:
    output = show(all_fates)[1]
    assert "0.2625 better than the default configuration (trial 0000, 0.6000)" in output
    compared = {
        line.split()[0]: line.split()[1:]
        for line in output.splitlines()
        if line.startswith(("val_", "optim.", "model."))
    }
    assert compared["val_accuracy"] == ["0.6000", "0.8625"]
    assert compared["optim.lr"] == ["0.001", "0.005", "*"]
    assert compared["optim.optim_type"] == ["adamw", "adamw"]


def test_the_best_configuration_is_complete_and_is_read_back(all_fates: Path, show: Show) -> None:
    text = best_yaml(read_results(open_results(all_fates)))
    assert text in show(all_fates)[1]
    assert YAML(typ="safe").load(io.StringIO(text)) == {
        "hyperparameters": {
            "model.timm_image.checkpoint_name": "mobilenetv3_small_050",
            "optim.lr": 0.005,
            "optim.optim_type": "adamw",
            "optim.max_epochs": 6,
            "env.precision": "32",
            "optim.weight_decay": 1e-05,
        }
    }


def test_a_resumed_trial_is_one_row_with_its_whole_curve(all_fates: Path) -> None:
    results = read_results(open_results(all_fates))
    row = next(row for row in results.rows if row.trial == "0005")
    assert [value for _, value in row.curve] == [0.2, 0.3, 0.42, 0.5, 0.55, 0.56]  # epoch 3 was trained again
    assert (row.node, row.best_epoch) == ("node02", 6)
    assert 60 < row.seconds < 90  # seven epochs of ten seconds; not the day between the attempts
    assert [(attempt.id, attempt.ended) for attempt in results.attempts] == [("a1", False), ("a2", True)]
    assert sum(attempt.seconds for attempt in results.attempts) < 300


def test_a_stop_is_explained_in_a_sentence(all_fates: Path, show: Show) -> None:
    code, output, _ = show(all_fates, "--trial", "2")
    assert code == 0
    assert "Stopped at epoch 2 of 6: 0.41 was rank 3 of 3, cutoff 0.52 for the best third." in output
    assert "rung 1: stop, rank 3 of 3, cutoff 0.5200" in output
    failures = show(all_fates, "--trial", "0004")[1]
    assert "failure (ran again): out_of_memory: CUDA out of memory: tried 4 GiB" in failures
    assert "failure (gave up): out_of_memory: CUDA out of memory: tried 2 GiB" in failures


def test_an_unknown_trial_is_refused(all_fates: Path, show: Show) -> None:
    code, output, errors = show(all_fates, "--trial", "0009")
    assert (code, output) == (2, "")
    assert "no trial '0009'" in errors


def test_a_running_sweep_shows_what_is_known(running_sweep: Path, show: Show) -> None:
    code, output, errors = show(running_sweep)
    assert (code, errors) == (0, "")
    assert "7 of 8 trials: 2 completed, 1 stopped, 1 diverged, 1 failed, 1 running, 1 suggested." in output
    assert "Running since" in output
    assert "if the job is gone, submit.py --resume goes on" in output  # its last event is long past
    assert "running" in line_of(output, "0005")
    assert "not started" in line_of(output, "0006")


def test_a_sweep_may_grow_while_it_is_read(running_sweep: Path, new_sweep: Any, show: Show) -> None:
    sweep = new_sweep("running")  # the driver again, holding its lock
    assert show(running_sweep)[0] == 0
    sweep.event("reported", trial="0005", attempt="a1", epoch=4, metrics={"val_accuracy": 0.95})
    assert "Best: trial 0005, val_accuracy 0.9500" in show(running_sweep)[1]
    sweep.close()


def test_an_attempt_that_ended_early_names_the_command_that_goes_on(new_sweep: Any, show: Show) -> None:
    sweep = new_sweep()
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, "default"), [0.3])
    sweep.event("attempt_ended", attempt="a1", reason="walltime")
    output = show(sweep.close())[1]
    assert "Unfinished after 13 s in 1 attempt, can be resumed: the last one ended with 'walltime'." in output
    assert "--resume" in output.splitlines()[-1]
    assert "cut off, waits to go on" in line_of(output, "0000")


def test_before_the_first_attempt_there_is_nothing_and_that_is_no_error(new_sweep: Any, show: Show) -> None:
    directory = new_sweep().close()
    (directory / "journal.jsonl").unlink()
    code, output, errors = show(directory)
    assert (code, errors) == (0, "")
    assert "No attempt has started yet" in output


def test_a_sweep_that_ended_without_a_value_is_an_error(new_sweep: Any, show: Show) -> None:
    sweep = new_sweep(num_trials=1)
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, "default"), [float("nan")])
    sweep.finish("0000", "diverged", "val_accuracy was not finite at epoch 1")
    code, output, errors = show(sweep.end())
    assert code == 6
    assert "not finite" in output
    assert "without one usable trial" in errors


def test_a_metric_to_be_minimised(new_sweep: Any, show: Show) -> None:
    sweep = new_sweep(metric="val_rmse", mode="min", num_trials=2)
    sweep.start_attempt()
    for number, values in enumerate([[14.0, 12.0, 13.0], [13.0, 11.5, 11.75]]):
        trial = sweep.suggest(number, "default" if number == 0 else "model")
        sweep.train(trial, values)
        sweep.finish(trial, "completed", "no better value for 2 epochs")
    output = show(sweep.end())[1]
    assert "Best: trial 0001, val_rmse 11.500 (lower is better) at epoch 2; 0.500 better" in output
    assert line_of(output, "0001").split()[0] == "1"
    assert line_of(output, "0000").endswith("no better value for 2 epochs")


def test_a_moved_copy_reads_the_same(all_fates: Path, tmp_path: Path, show: Show) -> None:
    before = show(all_fates, "--json")[1]
    moved = tmp_path / "somewhere else" / "it's moved"
    shutil.copytree(all_fates, moved)
    shutil.rmtree(all_fates)
    assert show(moved, "--json")[1] == before
    assert "'\"'\"'" in show(moved)[1].splitlines()[-1]  # the next command is quoted for a shell


def test_a_directory_that_may_only_be_read(all_fates: Path, show: Show, no_write_permission: Any) -> None:
    with tempfile.TemporaryDirectory() as open_folder:  # tmp_path itself is closed to other users
        Path(open_folder).chmod(0o755)
        copy = shutil.copytree(all_fates, Path(open_folder) / "sweep")
        before = sorted((path.name, path.stat().st_mtime_ns) for path in copy.rglob("*"))
        with no_write_permission(copy):
            assert show(copy)[0] == 0
        assert sorted((path.name, path.stat().st_mtime_ns) for path in copy.rglob("*")) == before


def test_the_journal_alone_is_enough(all_fates: Path, show: Show) -> None:
    (all_fates / "resolved.json").unlink()
    code, output, _ = show(all_fates)
    assert code == 0
    assert "Sweep clothing" in output
    assert "6 trials: 3 completed, 1 stopped, 1 diverged, 1 failed." in output
    assert "mobilenetv3_small_050" in line_of(output, "0001")


def test_a_torn_last_line_is_left_out(all_fates: Path, show: Show) -> None:
    whole = show(all_fates, "--json")[1]
    with (all_fates / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"v": 1, "n": 57, "type": "repor')
    assert show(all_fates, "--json")[1] == whole


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"type": "started"', b'"type": "sta', "is damaged"),
        (b'{"v": 1, "n": 3', b'{"v": 9, "n": 3', "use a newer slurmtune"),
    ],
)
def test_a_journal_that_cannot_be_trusted_is_an_error(
    all_fates: Path, show: Show, old: bytes, new: bytes, message: str
) -> None:
    journal = all_fates / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(old, new, 1))
    code, output, errors = show(all_fates)
    assert (code, output) == (7, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_what_is_no_sweep_is_refused_with_a_hint(all_fates: Path, tmp_path: Path, show: Show) -> None:
    code, _, errors = show(tmp_path)
    assert code == 2
    assert f"the newest sweep in it is {all_fates}" in errors
    (tmp_path / "empty").mkdir()
    assert show(tmp_path / "empty")[0] == 2
    assert show(tmp_path / "missing")[0] == 2


def test_json_holds_everything_and_its_description_every_key(running_sweep: Path, show: Show) -> None:
    code, output, _ = show(running_sweep, "--json")
    document = json.loads(output, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert code == 0
    assert document["version"] == 1
    assert document["status"] == "running"
    assert [trial["trial"] for trial in document["trials"]] == ["0001", "0000", "0002", "0005", "0003", "0004", "0006"]
    assert (document["best"], document["default"]) == ("0001", "0000")
    stopped = document["trials"][2]
    assert stopped["params"]["optim.lr"] == 0.0001
    assert stopped["curve"] == [[1, 0.11], [2, 0.41]]
    assert stopped["decisions"][0]["cutoff"] == 0.52
    assert document["failures"] == [
        {"kind": "out_of_memory", "failures": 2, "trials": ["0004"], "cause": "CUDA out of memory: tried 2 GiB"}
    ]
    keys = [*document, *stopped, *document["attempts"][0], *document["history"][0], *document["rungs"][0]]
    assert [key for key in keys if key not in (to_json.__doc__ or "")] == []


def test_json_of_one_trial(all_fates: Path, show: Show) -> None:
    document = json.loads(show(all_fates, "--json", "--trial", "3")[1])
    assert [(trial["trial"], trial["value"], trial["rank"]) for trial in document["trials"]] == [("0003", None, None)]
    assert document["trials"][0]["curve"] == [[1, None]]


def test_top_and_all(all_fates: Path, show: Show) -> None:
    few = show(all_fates, "--top", "2")[1]
    assert "(4 more trials: --all)" in few
    assert "  0005  " not in few
    assert "more trials" not in show(all_fates, "--top", "2", "--all")[1]
    with pytest.raises(SystemExit, match="2"):
        show(all_fates, "--top", "0")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_of_the_table_is_wider_than_the_terminal(
    all_fates: Path, show: Show, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    output = show(all_fates)[1]
    above, table = output.split("\n\n")[:2]
    assert max(map(len, f"{above}\n{table}".splitlines())) <= width
    assert len(table.splitlines()) >= 7
    for title in ("trial", "val_accuracy", "state"):
        assert title in output
    hidden = "node01" not in output
    assert hidden == ("not shown for want of width" in output)


def run_command(*arguments: Any, python: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, str(ROOT / "launch" / "results.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_it_needs_nothing_installed_and_works_from_anywhere(all_fates: Path, tmp_path: Path) -> None:
    """-S hides every installed package, -E every setting of the environment."""
    run = run_command(all_fates, python=("-S", "-E"), cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Best: trial 0001" in run.stdout


def test_it_imports_nothing_heavy_where_that_is_installed(all_fates: Path) -> None:
    code = "import sys; from launch.results import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, str(all_fates)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    modules = set(run.stderr.split())
    assert "hpo.results" in modules
    assert modules & HEAVY == set()


def test_a_reader_that_goes_away_is_no_error(all_fates: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(ROOT / "launch" / "results.py"), str(all_fates)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_locale_without_unicode_gets_plain_letters(new_sweep: Any) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    sweep = new_sweep(name="größe")
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, "default"), [0.5])
    sweep.fail("0000", "out_of_memory", "CUDA out of memory: tried to allocate more than there is", retry=False)
    run = run_command(sweep.end(), env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.isascii()
    assert "Sweep gr??e" in run.stdout
    assert "..." in run.stdout


def test_colours_only_for_a_terminal(all_fates: Path, show: Show) -> None:
    assert "\x1b" not in show(all_fates)[1]


def test_the_line_of_the_training_log(all_fates: Path) -> None:
    events = read_events(all_fates / "journal.jsonl")
    assert current_best_line(SweepState(events)) == (
        "Current best trial: 0001 with val_accuracy=0.8625 and parameters={'model.timm_image.checkpoint_name': "
        "'mobilenetv3_small_050', 'optim.lr': 0.005, 'optim.optim_type': 'adamw'}"
    )
    assert current_best_line(SweepState(events[:3])) == ""


def test_the_line_of_live_progress(running_sweep: Path) -> None:
    state = SweepState(read_events(running_sweep / "journal.jsonl"))
    assert progress_line(state, 8) == (
        "5 of 8 trials ended (1 stopped, 1 diverged, 1 failed), 1 running, 18 epochs, best val_accuracy 0.8625 (0001)"
    )
    assert progress_line(SweepState(), 8) == "0 of 8 trials ended, 0 epochs"
