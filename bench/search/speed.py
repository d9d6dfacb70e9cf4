"""What the search itself costs: seconds of CPU for a suggestion, and for an event of the journal.

    python bench/search/speed.py suggestion
    python bench/search/speed.py journal
    python bench/search/speed.py busy

suggestion: 10 dimensions, 100 to 10,000 finished trials with ASHA's rungs. journal: an event as a sweep grows, and
replay. busy: 1,000 simulated workers, 10,000 trials, epochs of 60 s; the driver serves one worker at a time and its
own CPU time passes on the workers' clock.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hpo.config import SweepConfig  # noqa: E402
from hpo.records import Journal  # noqa: E402
from hpo.search.bayes import Observation, suggest  # noqa: E402
from hpo.search.sweep import Sweep  # noqa: E402
from hpo.space import Dimension, Range, Space  # noqa: E402
from hpo.tuneconfig import TuneConfig  # noqa: E402

_DIMENSIONS, _EPOCHS, _EPOCH_S = 10, 27, 60.0
SPACE = Space(tuple(Dimension(f"x{k}", f"x{k}", Range(0.0, 1.0), 0.5, {}) for k in range(_DIMENSIONS)),
              {"optim.max_epochs": _EPOCHS, "optim.warmup_steps": 0.0})  # fmt: skip


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def error(params: dict[str, float], epoch: int) -> float:
    """A bowl that is seen better and better, with noise that belongs to the configuration."""
    bowl = sum((value - 0.3) ** 2 for value in params.values())
    noise = random.Random(repr(sorted(params.items()))).gauss(0, 0.3)
    return bowl + (1 + noise) / epoch


def measure_suggestion() -> None:
    rng = random.Random(0)
    for count in (100, 1000, 10000):
        seen = []
        for _ in range(count):
            params = SPACE.sample(rng)
            rungs = min(int(rng.expovariate(1.1)), 2) + 1
            seen.append(Observation(params, [error(params, epoch) for epoch in (3, 9, 27)[:rungs]]))
        spent = []
        for k in range(40):
            began = time.process_time()
            suggest(SPACE, seen, count + k, seed=k, maximise=False, startup=8)
            spent.append(time.process_time() - began)
        worst, middle = max(spent), statistics.median(spent)
        _say(f"{count} trials: median {1000 * middle:.1f} ms, mean {1000 * statistics.mean(spent):.1f} ms, "
              f"largest of 40 {1000 * worst:.1f} ms")  # fmt: skip


def make_sweep(folder: Path, trials: int, searcher: str) -> tuple[Sweep, Journal]:
    journal = Journal(folder / "journal.jsonl")
    config = SweepConfig(name="speed", data=Path("none"), task="classification", metric="error", mode="min", seed=1,
                         space=SPACE, tune=TuneConfig(num_trials=trials, searcher=searcher))  # fmt: skip
    return Sweep(config, journal, "simulated"), journal


def measure_journal() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        sweep, journal = make_sweep(Path(name), 10**6, "random")
        sweep.start_attempt(job="", host="simulated", nodes=1)
        marks, began, before = [100, 1000, 10_000, 100_000], time.process_time(), 0
        while marks:
            trial = sweep.next_trial()
            assert trial is not None
            sweep.start_trial(trial.id, "node")
            epoch = 0
            while not trial.finished:
                epoch += 1
                sweep.report(trial.id, epoch, {"error": error(trial.params, epoch)})
            if len(journal.events) >= marks[0]:
                spent = time.process_time() - began
                each = 1e6 * spent / (len(journal.events) - before)
                _say(f"up to {marks.pop(0)} events: {each:.0f} us an event")
                before, began = len(journal.events), time.process_time()
        journal.close()
        began = time.process_time()
        make_sweep(Path(name), 10**6, "random")[1].close()
        _say(f"replay of {before} events: {time.process_time() - began:.2f} s")


def measure_busy(workers: int = 1000, trials: int = 10_000) -> None:
    """The driver's clock runs by its own CPU time; a worker waits while it serves others."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        sweep, journal = make_sweep(Path(name), trials, "bayes")
        sweep.start_attempt(job="", host="simulated", nodes=workers)
        driver, worked, waited, free = 0.0, 0.0, 0.0, [(0.0, k, "", 0) for k in range(workers)]
        heapq.heapify(free)
        asking = []
        while free:
            ready, worker, key, epoch = heapq.heappop(free)
            began = time.process_time()
            driver = max(driver, ready)
            goes_on = bool(key) and sweep.report(key, epoch, {"error": error(sweep.state.trials[key].params, epoch)})
            if not goes_on:
                trial = sweep.next_trial()
                if trial is None:
                    continue  # nothing left to give out
                sweep.start_trial(trial.id, "node")
                key, epoch = trial.id, trial.epochs
                asking.append(time.process_time() - began)
            driver += time.process_time() - began
            waited += driver - ready
            worked += _EPOCH_S
            heapq.heappush(free, (driver + _EPOCH_S, worker, key, epoch + 1))
        journal.close()
    _say(f"{workers} workers, {trials} trials: busy {100 * worked / (worked + waited):.2f} % while there is work; "
          f"a suggestion {1000 * statistics.mean(asking):.1f} ms in the mean")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["suggestion", "journal", "busy"])
    {"suggestion": measure_suggestion, "journal": measure_journal, "busy": measure_busy}[parser.parse_args().what]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
