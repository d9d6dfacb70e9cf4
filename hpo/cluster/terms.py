"""On which terms attempts on a sweep are made: gang or pool, how many, for how many GPU-hours, and when to give up.

Kept in resolved.json under `terms`; what was used so far is in the journal. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hpo.cluster.request import check_whole, parse_minutes
from hpo.errors import UsageError, nearest
from hpo.usage import Usage

MODES = ("gang", "pool")
IDLE_ATTEMPTS = 3  # in a row without one new epoch: something is wrong that another attempt will not mend


@dataclass(frozen=True, kw_only=True)
class Terms:
    """None: no limit, or the default of whoever uses it."""

    mode: str | None = None  # gang: one job of all hosts; pool: a head job, and a job for each worker
    max_attempts: int | None = None
    max_gpu_hours: float | None = None  # over all attempts
    max_replacements: int | None = None  # worker jobs of a pool that are submitted in the place of lost ones
    head_partition: str | None = None  # of a pool's head job
    head_time: str | None = None

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> Terms:
        """From words such as resolved.json has them; other words are passed over.

        Raises:
            UsageError: an unknown mode, a limit that is no number or below the least that makes sense.
        """
        values = {term.name: words[term.name] for term in fields(cls) if words.get(term.name) is not None}
        if "mode" in values and values["mode"] not in MODES:
            raise UsageError(f"--mode must be {' or '.join(MODES)}, got {values['mode']!r}."
                             f"{nearest(str(values['mode']), MODES)}")  # fmt: skip
        for key, low in (("max_attempts", 1), ("max_replacements", 0)):
            if key in values:
                values[key] = check_whole(key, values[key], low)
        if "max_gpu_hours" in values:
            values["max_gpu_hours"] = _hours(values["max_gpu_hours"])
        if "head_time" in values:
            parse_minutes(values["head_time"])
        return cls(**values)

    def merged(self, stronger: Terms) -> Terms:
        """These terms with everything that `stronger` says put in its place."""
        return replace(self, **{key: value for key, value in vars(stronger).items() if value is not None})

    @property
    def pool(self) -> bool:
        return self.mode == "pool"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_terms(resolved: Mapping[str, Any]) -> Terms:
    """The terms in a sweep's resolved.json; a sweep from before there were any has none."""
    return Terms.from_words(resolved.get("terms") or {})


def spent(usage: Usage, terms: Terms, now: float | None = None) -> str:
    """Which limit of `terms` is reached, and how to go on; '' while there is something left."""
    used = usage.gpu_hours(now)
    if terms.max_gpu_hours is not None and used >= terms.max_gpu_hours:
        return f"max_gpu_hours {terms.max_gpu_hours:g} is spent ({used:.3g} used); --resume with more goes on"
    if terms.max_attempts is not None and len(usage.attempts) >= terms.max_attempts:
        return f"max_attempts {terms.max_attempts} is reached; --resume with more goes on"
    return ""


def fruitless(usage: Usage, origin: str) -> str:
    """Why there should be no further attempt by the job or local run `origin` (see hpo.usage.origin): its last ones
    brought nothing; '' while there is hope. A person's own --resume is another job and starts the count anew."""
    last = [attempt for attempt in usage.attempts if not attempt.waited][-IDLE_ATTEMPTS:]
    if len(last) < IDLE_ATTEMPTS or any(attempt.epochs or attempt.origin != origin for attempt in last):
        return ""
    why = last[-1].reason or "it did not end in order"
    return f"{IDLE_ATTEMPTS} attempts in a row brought no new epoch; the last: {why}"


def _hours(value: Any) -> float:
    try:
        hours = float(value)
    except (TypeError, ValueError):
        hours = math.nan
    if isinstance(value, bool) or not (0 < hours < math.inf):
        raise UsageError(f"--max-gpu-hours must be a number above 0, got {value!r}.")
    return hours
