"""Whether a sweep of which no attempt is at work goes on without a person: what attempts/ID/exit.json says, and SLURM.

Standard library only.
"""

from __future__ import annotations

import os

from hpo.cluster.jobs import queue_states, read_jobs
from hpo.layout import read_json
from hpo.results.read import Results

_EXIT_S = 60.0  # after its last event, in which an attempt ends its processes and says how it ended


def goes_on(results: Results, now: float) -> bool:
    """Whether another attempt follows the last one by itself, or may: until it has said so. `now`: Unix seconds.

    Of an attempt that a preemption ended SLURM alone knows; it counts as one that nothing follows.
    """
    said = results.directory.attempt(results.attempts[-1].id) / "exit.json"
    if not said.is_file():
        return results.silence(now) < _EXIT_S
    how = read_json(said)
    return bool(how.get("again") or how.get("queued"))


def left_the_queue(results: Results, now: float) -> bool:
    """Whether SLURM has none of the sweep's jobs any more, and nothing was heard for a minute: after scancel while it
    waited, for instance. False where SLURM gives no answer, as away from the cluster, and of another user's sweep."""
    directory = results.directory
    if results.status == "ended" or directory.root.stat().st_uid != os.geteuid():
        return False
    jobs = read_jobs(directory)
    if not jobs or now - max(jobs[-1].t, results.last_event_at or 0.0) < _EXIT_S:
        return False
    return queue_states(job.job for job in jobs) == {}
