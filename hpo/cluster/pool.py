"""The worker jobs of a pool, as the driver sees to them: lost ones replaced, needless ones let go.

What a sweep wants is a place for each trial that has not ended. While the workers that have joined and those that are
still in the queue have fewer, a job that SLURM no longer knows is submitted again, up to the budget; when the joined
ones alone have enough, idle workers are released and waiting jobs cancelled.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from hpo.cluster.commands import clean_environment
from hpo.cluster.jobs import JobRecord, cancel_jobs, queue_states, read_jobs, release_job
from hpo.cluster.request import SlurmRequest
from hpo.cluster.terms import Terms
from hpo.layout import SweepDirectory

_LOOK_S = 10.0
_SUBMIT_DEADLINE_S = 120
_PATIENCE_S, _MOST_PATIENCE_S = 30.0, 960.0  # between two tries to replace a worker, which sbatch may refuse for hours
_GONE_LOOKS = 2  # in a row without a job in the queue: one that is being requeued is missing for a moment
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED")

Workers = Mapping[str, Mapping[str, Any]]  # Ray's id of the node -> what its worker said of itself


class Pool:
    """`want()` is the number of places that the sweep has use for, `places(worker)` the number that a worker has.

    `drain(node)` takes a node out of service if it is idle and says whether it was; `note(type, **fields)` writes an
    event, `say` a line for the log.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        terms: Terms,
        want: Callable[[], int],
        places: Callable[[Mapping[str, Any]], int],
        drain: Callable[[str], bool],
        note: Callable[..., None],
        say: Callable[[str], None],
    ) -> None:
        self._directory, self._terms, self._want, self._places = directory, terms, want, places
        self._drain, self._note, self._say = drain, note, say
        self._missing: dict[str, int] = {}  # job -> looks in a row at which it was not in the queue
        self._looked, self._exhausted = 0.0, False
        self._refused_at, self._patience_s = -math.inf, _PATIENCE_S

    def look(self, workers: Workers) -> str:
        """Does what is due; returns why there is no use in going on, '' as a rule."""
        if time.monotonic() - self._looked < _LOOK_S:
            return ""
        self._looked = time.monotonic()
        records = read_jobs(self._directory, "worker")
        states = queue_states(record.job for record in records)
        if states is None:  # SLURM's controller does not answer: nothing is known
            return ""
        joined = {str(worker["job"]) for worker in workers.values()}
        waiting = [record for record in records if states.get(record.job) in _WAITING and record.job not in joined]
        want, here = self._want(), sum(self._places(worker) for worker in workers.values())
        if here >= want:
            self._let_go(records, waiting, workers, here - want)
            return ""
        coming = [record for record in records if record.job in states and record.job not in joined]
        typical = max((self._places(worker) for worker in workers.values()), default=1)
        lost = self._find_lost(records, states, joined)
        for missing in lost[: max(0, -(-(want - here - typical * len(coming)) // max(1, typical)))]:
            self._replace(missing, records)
        return self._dead_end(records, coming, joined)

    def _let_go(self, records: list[JobRecord], waiting: list[JobRecord], workers: Workers, spare: int) -> None:
        if waiting and cancel_jobs([record.job for record in waiting], pending_only=True):
            for record in waiting:
                release_job(self._directory, record)
            self._say(f"{len(waiting)} workers that are still in the queue are needed no more")
        known = {record.job: record for record in records}
        for node, worker in workers.items():
            mine = known.get(str(worker["job"]))
            places = self._places(worker)
            if mine and not mine.released and 0 < places <= spare and self._drain(node):
                spare -= places
                release_job(self._directory, mine)
                self._note("worker_released", worker=worker["worker"], host=worker["host"])
                self._say(f"the worker on {worker['host']} is needed no more")

    def _find_lost(self, records: list[JobRecord], states: Mapping[str, str], joined: set[str]) -> list[JobRecord]:
        """Jobs that are gone, were not released, and have not been replaced yet."""
        replaced = {record.replaces for record in records}
        gone = [one for one in records if one.job not in states and one.job not in joined and not one.released
                and one.job not in replaced and one.request != SlurmRequest()]  # fmt: skip
        self._missing = {one.job: self._missing.get(one.job, 0) + 1 for one in gone}
        return [one for one in gone if self._missing[one.job] >= _GONE_LOOKS]

    def _replace(self, lost: JobRecord, records: list[JobRecord]) -> None:
        if self._budget(records) <= 0:
            if not self._exhausted:
                self._exhausted = True
                self._say("a worker is lost and max_replacements is used up; submit.py --add-workers adds some")
            return
        if time.monotonic() - self._refused_at < self._patience_s:
            return
        job, why = self._submit_again(lost.job)
        if why:
            self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
            self._refused_at = time.monotonic()
            self._say(f"worker job {lost.job} could not be replaced: {why} (again in {self._patience_s:.0f} s)")
            return
        self._refused_at, self._patience_s = -math.inf, _PATIENCE_S
        self._note("worker_replaced", job=job, replaces=lost.job)
        self._say(f"worker job {lost.job} is gone; {job} takes its place")

    def _submit_again(self, lost: str) -> tuple[str, str]:
        """The new job, or why there is none."""
        command = [sys.executable, "-m", "hpo.cluster.replacement", str(self._directory.root), lost]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SUBMIT_DEADLINE_S, check=False,
                                  env=clean_environment())  # fmt: skip
        except subprocess.TimeoutExpired:
            return "", "sbatch gave no answer"
        return done.stdout.strip(), " ".join(done.stderr.split())[-300:] if done.returncode else ""

    def _budget(self, records: list[JobRecord]) -> int:
        """Replacements that are left since the pool was last submitted."""
        since = max((record.t for record in read_jobs(self._directory, "attempt")), default=0.0)
        recent = [record for record in records if record.t >= since]
        first = sum(not record.replaces for record in recent)
        limit = self._terms.max_replacements if self._terms.max_replacements is not None else max(first, 1)
        return limit - (len(recent) - first)

    def _dead_end(self, records: list[JobRecord], coming: list[JobRecord], joined: set[str]) -> str:
        """No worker is there, none is coming, and no further one may be asked for."""
        patient = any(count < _GONE_LOOKS for count in self._missing.values())
        by_hand = not records or any(record.request == SlurmRequest() for record in records)
        if joined or coming or patient or by_hand or self._budget(records) > 0:
            return ""
        return "all workers are lost and max_replacements is used up; submit.py --resume submits new ones"
