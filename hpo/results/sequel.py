"""Whether a sweep of which no attempt is at work goes on without a person, by what attempts/ID/exit.json says.

Standard library only.
"""

from __future__ import annotations

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
