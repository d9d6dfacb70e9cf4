"""Real sweeps on this machine of which processes are killed at random moments, compared with one that ran undisturbed.

    python tests/faults/campaign.py --out DIR --times 30              # goes on where it was stopped
    python tests/faults/campaign.py --out DIR --times 5 --kinds gcs

A sweep is `deterministic`, so all of it is compared and not the end alone: suggestions, rung decisions, winner, and
each metric of each epoch, to the bit. Every kill comes at a random moment after the one before. What it has ended is
started again by the sweep itself, or by submit.py --resume. Prints a line for each sweep; DIR/kills.jsonl holds a line
for each kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from course import course, curves  # noqa: E402
from small_sweeps import make_shards  # noqa: E402

from hpo.cluster.processes import end_processes, find_processes  # noqa: E402
from hpo.records import read_events  # noqa: E402

SWEEP = """
name: killed
data: {data}
hyperparameters:
  model.timm_image.checkpoint_name: {{choice: [test_vit, test_resnet]}}
  model.timm_image.pretrained: false
  model.timm_image.drop_rate: 0.2
  optimization.learning_rate: {{loguniform: [1e-4, 3e-2], default: 1e-3}}
  optimization.max_epochs: {epochs}
  optimization.ema_decay: 0.9
  optimization.lr_schedule: cosine_decay
  data.mixup.turn_on: true
  data.random_erasing.prob: 0.3
  env.batch_size: 32
hyperparameter_tune_kwargs:
  num_trials: {trials}
  deterministic: 2
  num_to_keep: 1
  searcher_init_args: {{startup_trials: 3}}
  scheduler_init_args: {{grace_period: 1}}
  resources_per_trial: {{num_cpus: 1}}
"""
KINDS = {  # kind -> a word of the command line of whom it ends; '': of everyone's
    "trial": "ray::",
    "driver": "hpo.cluster.driver_main",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
    "supervisor": "submitit.core._submit",
    "all": "",
}
_DEADLINE_S = 1800  # for a sweep between two kills, on a machine with much else to do
_LEFT_S = 30  # until nothing may be left of an attempt whose supervisor was killed
_EARLY, _EARLY_S, _LATE_S = 0.3, 6.0, 5.0  # share of kills while it starts again; the others come after new epochs


@dataclass
class Run:
    """One sweep under fire."""

    folder: Path
    sweep: Path
    kinds: list[str]
    rng: random.Random
    most: int
    kills: list[dict] = field(default_factory=list)
    resumed: int = 0

    @property
    def events(self):
        return read_events(self.folder / "journal.jsonl")

    def play(self):
        """To the sweep's end; returns what is wrong, [] when nothing is."""
        process = self._submit(str(self.sweep), "--cluster", "local", "--run-dir", str(self.folder))
        snapshots = []
        while not _ended(self.events):
            if process.poll() is not None:
                self._end_leftovers()
                process = self._submit("--resume", str(self.folder))
                self.resumed += 1
            if len(self.kills) < self.most and self._wait(process) and (kind := self._kill()):
                snapshots.append((self.folder / "journal.jsonl").read_bytes())
                self.kills.append(kind)
            elif len(self.kills) >= self.most:
                process.wait(_DEADLINE_S)
        process.wait(_DEADLINE_S)
        return [*check_journal(self.folder, snapshots), *self._end_leftovers()]

    def _submit(self, *arguments):
        log = self.folder.with_suffix(".log").open("ab")
        command = [sys.executable, str(ROOT / "launch" / "submit.py"), *arguments]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self, process):
        """Until the next kill is due; False when the sweep ends before it."""
        early = self.rng.random() < _EARLY
        known, began, due = _count(self.events, "reported"), time.monotonic(), None
        while process.poll() is None and time.monotonic() - began < _DEADLINE_S:
            if due is None and (early or _count(self.events, "reported") > known):
                due = time.monotonic() + self.rng.uniform(0, _EARLY_S if early else _LATE_S)
            if due is not None and time.monotonic() > due:
                return not _ended(self.events)
            time.sleep(0.05)
        return False

    def _kill(self):
        """SIGKILL for one kind of process; what is known of that moment, None when there was none of them."""
        kind = self.kinds[len(self.kills) % len(self.kinds)]
        word, found = KINDS[kind], []
        for pid in self._processes():
            line = _command_line(pid)
            if word in line and (kind != "trial" or ("Trainable" in line or "TrialActor" in line)):
                found.append(pid)
        if kind == "trial" and found:
            found = [self.rng.choice(found)]
        for pid in found:
            _send(pid, signal.SIGKILL)
        events = self.events
        epochs = {event["trial"]: event["epoch"] for event in events if event["type"] == "reported"}
        last = events[-1]["type"] if events else ""
        known = {"kind": kind, "t": round(time.time(), 2), "after": last, "epochs": epochs, "killed": len(found)}
        return known if found else None

    def _processes(self):
        marks = [json.loads(path.read_text())["temp"] for path in self.folder.glob("attempts/*/head.json")]
        return {pid for mark in (*marks, str(self.folder)) for pid in find_processes(mark)}

    def _end_leftovers(self):
        """What is still there some seconds after an end; [] when it has gone by itself."""
        end = time.monotonic() + _LEFT_S
        while (left := self._processes()) and time.monotonic() < end:
            time.sleep(0.1)
        lines = [f"left: {_command_line(pid)[:80]}" for pid in left]
        end_processes(left)
        return lines


def check_journal(folder, snapshots):
    """What the journal shows that should not be."""
    content, wrong = (folder / "journal.jsonl").read_bytes(), []
    for snapshot in snapshots:
        whole = snapshot[: snapshot.rfind(b"\n") + 1]
        if not content.startswith(whole):
            wrong.append("a result that had been written down is gone")
    finished, reported = set(), {}
    for event in read_events(folder / "journal.jsonl"):
        kind, trial = event["type"], event.get("trial")
        if kind == "started":
            if trial in finished:
                wrong.append(f"{trial} ran again after its end")
        elif kind == "reported":
            if event["epoch"] <= reported.get(trial, 0):
                wrong.append(f"{trial} trained epoch {event['epoch']} twice")
            reported[trial] = max(event["epoch"], reported.get(trial, 0))
        elif kind == "finished":
            finished.add(trial)
    return wrong


def compare(whole, broken):
    """How the broken sweep differs from the whole one: [] when it went the same way, to the bit."""
    wrong = []
    if course(broken) != course(whole):
        first = next((pair for pair in zip(course(broken), course(whole), strict=False) if pair[0] != pair[1]), "")
        wrong.append(f"it went another way: {first}")
    if curves(broken) != curves(whole):
        wrong.append("metrics differ")
    return wrong


def find_recoveries(kills, events):
    """Adds to each kill the seconds until a trial had completed another epoch."""
    times = [event["t"] for event in events if event["type"] == "reported"]
    for kill, end in zip(kills, [*(following["t"] for following in kills[1:]), float("inf")], strict=False):
        after = next((t for t in times if t > kill["t"]), None)
        if after is not None and after < end:
            kill["back_s"] = round(after - kill["t"], 1)


def write_sweep(out, trials, epochs):
    data = out / "data"
    if not data.exists():
        make_shards(out, per_class=40)
    path = out / f"sweep-{trials}-{epochs}.yaml"
    path.write_text(SWEEP.format(data=data, trials=trials, epochs=epochs))
    return path


def undisturbed(out, trials, epochs):
    """The events of the sweep that nobody killed, run once."""
    folder = out / f"whole-{trials}-{epochs}"
    run = Run(folder, write_sweep(out, trials, epochs), [], random.Random(0), most=0)
    if folder.exists() and not _ended(run.events):
        raise SystemExit(f"{folder} is not finished; remove it.")
    if not folder.exists() and (wrong := run.play()):
        raise SystemExit(f"the undisturbed sweep: {wrong}")
    return run.events


def attack(out, kinds, most, seed, trials=8, epochs=9):
    """One sweep under fire: (its kills, what is wrong, its events)."""
    whole = undisturbed(out, trials, epochs)
    folder = out / f"broken-{'-'.join(kinds)}-{seed}"
    run = Run(folder, write_sweep(out, trials, epochs), kinds, random.Random(seed), most)
    wrong = [*run.play(), *compare(whole, run.events)]
    find_recoveries(run.kills, run.events)
    return run, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--until", default="", help="HH:MM: begins no sweep after that")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    record = out / "kills.jsonl"
    while kind := _next_kind(record, arguments.kinds.split(","), arguments.times):
        if arguments.until and time.strftime("%H:%M") >= arguments.until:
            print(f"it is {arguments.until}; the same command goes on", flush=True)
            return
        done = _read(record)
        seed = max((row["seed"] for row in done), default=0) + 1
        while _ended(read_events(out / f"broken-{kind}-{seed}" / "journal.jsonl")):  # too fast for its first kill
            seed += 1
        missing = arguments.times - sum(row["kind"] == kind for row in done)
        run, wrong = attack(out, [kind], min(missing, 8), seed)
        with record.open("a") as stream:
            for kill in run.kills:
                stream.write(json.dumps({**kill, "seed": seed, "resumed": run.resumed, "wrong": wrong}) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {kind}: {len(run.kills)} kills, {run.resumed} resumed, {wrong}", flush=True)


def _next_kind(record, kinds, times):
    """The kind that was tried least."""
    counts = {kind: sum(row["kind"] == kind for row in _read(record)) for kind in kinds}
    least = min(counts, key=counts.get)
    return least if counts[least] < times else ""


def _read(record):
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def _ended(events):
    return bool(events) and any(event["type"] == "sweep_ended" for event in events[-3:])


def _count(events, kind):
    return sum(event["type"] == kind for event in events)


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _send(pid, signum):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


if __name__ == "__main__":
    main()
