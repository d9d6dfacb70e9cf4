"""Seconds to see what a sweep found, beside Ray's ResultGrid and Optuna's study of the same trials.

    python bench/results/speed.py --out FOLDER [--trials 500 10000] [--report 1000] [--rounds 5]

Makes sweeps in FOLDER by the real journal and ASHA, with values of a formula instead of trainings and real trials'
events, and times whole processes, from start to end, one after the other in turns: by the clock, and their CPU seconds.
FOLDER must be new.

whole       results.py DIR: table, best configuration
moved       of a copy elsewhere that may only be read
written     while another process adds events with fsync, as a driver does
torn        with half a line at the journal's end
json        results.py DIR --json: everything
Ray         (up to 1,000 trials) ray.tune.ResultGrid(ExperimentAnalysis(FOLDER)).get_dataframe()
Optuna      (the same) load_study(...).trials_dataframe() of optuna-journal.log
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hpo.config import load_sweep  # noqa: E402
from hpo.layout import SweepDirectory, write_json  # noqa: E402
from hpo.records import Journal, SweepState, read_events  # noqa: E402
from hpo.search.sweep import Sweep  # noqa: E402

SWEEP = """
name: measured
data: bundled:clothing
hyperparameters:
  model.timm_image.checkpoint_name: {{choice: [resnet18, mobilenetv3_small_100, test_vit, test_efficientnet]}}
  optimization.learning_rate: {{loguniform: [1e-4, 1e-1], default: 1e-3}}
  optimization.optim_type: {{choice: [adamw, sgd]}}
  optimization.weight_decay: {{loguniform: [1e-5, 1e-1], default: 1e-3}}
  optimization.label_smoothing: {{uniform: [0, 0.2], default: 0.1}}
  optimization.max_epochs: 27
hyperparameter_tune_kwargs: {{searcher: random, scheduler: ASHA, num_trials: {trials}}}
"""
_WORKERS = 8
_MOST_OF_PEERS = 1000  # trials; Ray's folder has one a trial
_RAY = """
import sys
from ray.tune import ExperimentAnalysis, ResultGrid
print(len(ResultGrid(ExperimentAnalysis(sys.argv[1])).get_dataframe()))
"""
_OPTUNA = """
import sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name="measured", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
print(len(study.trials_dataframe()))
"""
_WRITER = """
import itertools, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hpo.records import Journal
journal = Journal(Path(sys.argv[2]))
print("writing", flush=True)
for number in itertools.count():
    journal.append("used", attempt="bench", gpu_hours=number / 3600)
    time.sleep(0.002)
"""


class Spent(NamedTuple):
    """Seconds of a process."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--trials", metavar="N", type=int, nargs="+", default=[500, 10000])
    parser.add_argument(
        "--report", metavar="N", type=int, default=1000, help="trials of the sweep that report.py shows"
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    for trials in arguments.trials:
        show(f"{trials} trials", measure_results(arguments.out / str(trials), trials, arguments.rounds))
    show(
        f"report, {arguments.report} trials",
        measure_report(arguments.out / "report", arguments.report, arguments.rounds),
    )


def measure_results(folder: Path, trials: int, rounds: int) -> dict[str, list[Spent]]:
    sweep = make_sweep(folder / "sweep", trials)
    results = [sys.executable, str(ROOT / "launch" / "results.py")]
    moved, torn = read_only_copy(sweep, folder / "moved"), torn_copy(sweep, folder / "torn")
    commands = {
        "whole": [*results, str(sweep)],
        "moved": [*_without_privileges(), *results, str(moved)],
        "torn": [*results, str(torn)],
        "json": [*results, str(sweep), "--json"],
    }
    if trials <= _MOST_OF_PEERS:
        write_peers(sweep, folder)
        commands["Ray"] = [sys.executable, "-c", _RAY, str(folder / "ray")]
        commands["Optuna"] = [sys.executable, "-c", _OPTUNA, str(folder / "optuna-journal.log")]
    found: dict[str, list[Spent]] = {name: [] for name in (*commands, "written")}
    growing = Path(shutil.copytree(sweep, folder / "growing"))
    for turn in range(rounds + 1):  # the first only fills the page cache
        for name, command in commands.items():
            found[name].append(timed(command))
        with a_writer(growing):
            found["written"].append(timed([*results, str(growing)]))
        if not turn:
            found = {name: [] for name in found}
    return found


def measure_report(folder: Path, trials: int, rounds: int) -> dict[str, list[Spent]]:
    sweep = make_sweep(folder, trials)
    command = [sys.executable, str(ROOT / "launch" / "report.py"), str(sweep)]
    found = {"report.py": [timed(command) for _ in range(rounds)]}
    print(f"report.html of {trials} trials: {(sweep / 'report.html').stat().st_size / 1e6:.2f} MB")
    return found


def show(title: str, found: dict[str, list[Spent]]) -> None:
    """Medians with their range, and how many times the CPU seconds of `whole` the peers take."""
    print(f"\n| {title} | seconds, median (range) | CPU seconds | ratio to whole |\n|---|---|---|---|")
    for name, runs in found.items():
        wall, cpu = [run.wall for run in runs], statistics.median(run.cpu for run in runs)
        ratio = f"{cpu / statistics.median(run.cpu for run in found['whole']):.1f}" if name in ("Ray", "Optuna") else ""
        spread = f"{min(wall):.2f} to {max(wall):.2f}"
        print(f"| {name} | {statistics.median(wall):.2f} ({spread}) | {cpu:.2f} | {ratio} |", flush=True)


def timed(command: list[str]) -> Spent:
    """A process that must succeed."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(time.perf_counter() - began, cpu)


def make_sweep(folder: Path, trials: int) -> Path:
    """A whole sweep of `trials` trials, eight at a time, its journal not forced to the disk event by event."""
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(SWEEP.format(trials=trials))
    config = load_sweep(folder / "sweep.yaml")
    directory = SweepDirectory(folder)
    write_json(directory.resolved, config.to_json())
    journal = Journal(directory.journal)
    times = (1.8e9 + step / 4 for step in itertools.count())  # Unix seconds
    with mock.patch("os.fsync"), mock.patch("hpo.records.time.time", side_effect=times):
        sweep = Sweep(config, journal, "bench")
        sweep.start_attempt(job="1", host="node01", nodes=2)
        busy: list[tuple[str, Iterator[bool]]] = []
        while True:
            while len(busy) < _WORKERS and (trial := sweep.next_trial()):
                busy.append((trial.id, train(sweep, trial.id, trial.params)))
            if not busy:
                break
            busy = [(name, training) for name, training in busy if next(training, False)]
        sweep.end_attempt("all trials have ended")
    journal.close()
    return folder


def train(sweep: Sweep, trial: str, params: dict[str, object]) -> Iterator[bool]:
    """Reports an epoch at a time, with as many numbers as a trial of images has."""
    sweep.start_trial(trial, f"node{int(trial) % 4:02d}")
    noise = random.Random(int(trial))
    height = math.exp(-((math.log10(float(params["optim.lr"])) + 2) ** 2)) * noise.uniform(0.8, 1)  # type: ignore[arg-type]
    for epoch in range(1, 28):
        value = height * (1 - math.exp(-epoch / 5))
        metrics = {name: value + noise.gauss(0, 0.01) for name in
                   ("val_accuracy", "val_balanced_accuracy", "val_f1_macro", "val_roc_auc", "val_loss", "train_loss",
                    "lr", "seconds", "images_per_second")}  # fmt: skip
        goes_on = sweep.report(trial, epoch, {**metrics, "micro_batch": 64}, f"checkpoint/last-{epoch:04d}",
                               "max_epochs" if epoch == 27 else "")  # fmt: skip
        yield goes_on
        if not goes_on:
            return


def write_peers(sweep: Path, folder: Path) -> None:
    """The same trials as Ray and as Optuna keep them."""
    from hpo.search.optuna_form import write_study
    from hpo.search.ray_form import write_ray_folder

    directory = SweepDirectory(sweep)
    config = load_sweep(sweep / "sweep.yaml")
    events = read_events(directory.journal)
    (folder / "ray").mkdir()
    with mock.patch("os.fsync"):
        write_ray_folder(SweepState(events), config.space.constants, folder / "ray")
        write_study(folder / "optuna-journal.log", "measured", config.space, events)


def read_only_copy(sweep: Path, target: Path) -> Path:
    copy = Path(shutil.copytree(sweep, target))
    for path in copy.iterdir():
        path.chmod(0o444)
    copy.chmod(0o555)
    return copy


def _without_privileges() -> list[str]:
    """root may write everywhere, unless it is run so."""
    return ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


def torn_copy(sweep: Path, target: Path) -> Path:
    copy = Path(shutil.copytree(sweep, target))
    with (copy / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"v": 1, "n": 99')
    return copy


@contextmanager
def a_writer(sweep: Path) -> Iterator[None]:
    """Another process adds events while this goes on."""
    command = [sys.executable, "-c", _WRITER, str(ROOT), str(sweep / "journal.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
        try:
            yield
        finally:
            writer.kill()


if __name__ == "__main__":
    main()
