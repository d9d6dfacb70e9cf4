"""Killed and gone on with: how many of ASHA's rung records are still there? Ray Tune's Tuner.restore, and slurmtune.

    python bench/resume/restore.py --kills 8 16 24

Both search the same space for the same curve, 16 trials of up to 9 epochs with rungs at 1 and 3 (reduction 3), a
checkpoint each epoch; the process that decides is killed by SIGKILL after so many reports and started again.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.rows import add_row, read_rows  # noqa: E402
from hpo.cluster.processes import end_processes, find_processes  # noqa: E402

TRIALS, EPOCHS = 16, 9
_DEADLINE_S = 1800


def value(lr: float, epoch: int) -> float:
    return math.exp(-((math.log10(lr) + 2) ** 2)) * (1 - math.exp(-epoch / 3))


# -- Ray Tune -------------------------------------------------------------------------------------------------------


def tune_run(folder: Path, again: bool) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler

    log = folder / "ray.jsonl"

    class Watched(AsyncHyperBandScheduler):
        """Writes down how many records each rung has, after each result."""

        def on_trial_result(self, controller, trial, result):
            before = self.sizes()
            decision = super().on_trial_result(controller, trial, result)
            second = "--again" in sys.argv  # restored from a pickle, this class knows nothing of `again`
            add_row(log, {"again": second, "before": before, "after": self.sizes()})
            return decision

        def sizes(self):
            return {str(rung[0]): len(rung[1]) for bracket in self._brackets for rung in bracket._rungs}

    def train(config):
        checkpoint = tune.get_checkpoint()
        epoch = int((Path(checkpoint.path) / "epoch").read_text()) if checkpoint else 0
        while epoch < EPOCHS:
            epoch += 1
            time.sleep(0.05)
            with tempfile.TemporaryDirectory() as saved:
                (Path(saved) / "epoch").write_text(str(epoch))
                tune.report({"value": value(config["lr"], epoch)}, checkpoint=tune.Checkpoint.from_directory(saved))

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder / "r"))
    if again:
        tuner = tune.Tuner.restore(str(folder / "run"), trainable=train, resume_unfinished=True)
    else:
        scheduler = Watched(metric="value", mode="max", grace_period=1, reduction_factor=3, max_t=EPOCHS)
        tuner = tune.Tuner(
            train,
            param_space={"lr": tune.loguniform(1e-4, 1e-1)},
            tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=TRIALS, max_concurrent_trials=2),
            run_config=tune.RunConfig(name="run", storage_path=str(folder), verbose=0),
        )
    tuner.fit()


# -- slurmtune ------------------------------------------------------------------------------------------------------


def our_run(folder: Path, again: bool) -> None:
    from hpo.config import SweepConfig, TuneConfig
    from hpo.records import Journal
    from hpo.search.sweep import Sweep
    from hpo.space import parse_space

    space = parse_space({"optim.lr": {"loguniform": [1e-4, 1e-1], "default": 1e-3}, "optim.max_epochs": EPOCHS})
    config = SweepConfig(
        name="s", data=Path("d"), task="classification", metric="value", mode="max", seed=1, space=space,
        tune=TuneConfig(num_trials=TRIALS, searcher="random", grace_period=1),
    )  # fmt: skip
    sweep = Sweep(config, Journal(folder / "journal.jsonl"), "a")

    def sizes():
        shares = (math.ceil(share * EPOCHS) for share in sweep._scheduler._rungs.shares)
        rungs = zip(shares, sweep._scheduler._rungs._rungs, strict=True)
        return {str(epoch): len(rung.places) for epoch, rung in rungs if epoch < EPOCHS}

    sweep.start_attempt(job="", host="h", nodes=1)
    while trial := sweep.next_trial():
        sweep.start_trial(trial.id, "n")
        epoch, goes_on = trial.checkpoint[0] if trial.checkpoint else 0, True
        while goes_on:
            epoch += 1
            before = sizes()
            goes_on = sweep.report(trial.id, epoch, {"value": value(trial.params["optim.lr"], epoch)}, f"c{epoch}")
            add_row(folder / "ours.jsonl", {"again": again, "before": before, "after": sizes()})
            time.sleep(0.05)
    sweep.end_attempt("all trials have ended")


# -- both -----------------------------------------------------------------------------------------------------------


def start(who: str, folder: Path, again: bool) -> subprocess.Popen:
    command = [sys.executable, __file__, "--role", who, "--folder", str(folder), *(["--again"] if again else [])]
    log = (folder / f"{who}.log").open("ab")
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_register_timeout_seconds": "900"}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environ)


def run_until(who: str, folder: Path, again: bool, reports: int) -> list[dict]:
    """Starts it, kills it and all that it started once it has so many reports; returns those."""
    process, end = start(who, folder, again), time.monotonic() + _DEADLINE_S
    while len(rows := [row for row in read_rows(folder / f"{who}.jsonl") if row["again"] == again]) < reports:
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{who}: no {reports} reports: {(folder / f'{who}.log').read_text()[-2000:]}")
        time.sleep(0.02)
    process.kill()
    end_processes(find_processes(str(folder)))  # Ray's own
    process.wait()
    return rows


def killed_after(who: str, reports: int, folder: Path) -> tuple[dict, dict]:
    """The rungs' records before the kill, and as the first decision after it found them."""
    run_until(who, folder, False, reports)
    before = [row for row in read_rows(folder / f"{who}.jsonl") if not row["again"]][-1]["after"]
    return before, run_until(who, folder, True, 1)[0]["before"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, nargs="+", default=[8, 16, 24])
    parser.add_argument("--role", choices=("ray", "ours"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    if arguments.role:
        (tune_run if arguments.role == "ray" else our_run)(arguments.folder, arguments.again)
        return
    for reports in arguments.kills:
        for who in ("ray", "ours"):
            with tempfile.TemporaryDirectory() as folder:
                before, after = killed_after(who, reports, Path(folder))
            lost = sum(before.values()) - sum(after.values())
            print(f"{who:5} killed after {reports} reports: {before} before, {after} after; {lost} lost", flush=True)


if __name__ == "__main__":
    main()
