"""On which terms attempts on a sweep are made: gang or pool, how many, for how many GPU-hours, and when to give up.

Kept in resolved.json under `terms`; what was used so far is in the journal. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hpo.cluster.partitions import Partition
from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import check_whole, format_minutes, parse_minutes
from hpo.errors import UsageError, nearest
from hpo.usage import Usage

MODES = ("gang", "pool")
_HEAD_CPUS, _HEAD_MEMORY, _WEEK_MINUTES = 2, "4G", 7 * 24 * 60
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
    time_limit: float | None = None  # seconds at work, of all attempts together; a predictor's, gone when resumed

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
        if "time_limit" in values:
            values["time_limit"] = float(values["time_limit"])
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


def head_request(request: SlurmRequest, terms: Terms, partition: Partition) -> SlurmRequest:
    """What a pool's head job asks for: a small place for as long as the partition gives, since it holds no GPU."""
    longest = min(partition.minutes or _WEEK_MINUTES, _WEEK_MINUTES)
    return SlurmRequest(
        partition=terms.head_partition or request.partition,
        account=request.account,
        qos=request.qos,
        reservation=request.reservation,
        begin=request.begin,
        dependency=request.dependency,
        mail_type=request.mail_type,
        mail_user=request.mail_user,
        job_name=request.job_name,
        comment=request.comment,
        nodes=1,
        gpus_per_node=0,
        cpus_per_task=min(_HEAD_CPUS, partition.cpus),
        mem=_HEAD_MEMORY,
        time=terms.head_time or format_minutes(longest),
    )


def check_terms(terms: Terms, cluster: str, gpus: int | None) -> None:
    """Refuses what these terms cannot mean. `gpus`: of a host; None where that is not known yet.

    Raises:
        UsageError: a pool without SLURM, GPU-hours without GPUs, a pool's flags without a pool.
    """
    if terms.pool and cluster == "local":
        raise UsageError("--mode pool is a matter of SLURM jobs; leave it out with --cluster local.")
    if terms.max_gpu_hours is not None and gpus == 0:
        raise UsageError(f"--max-gpu-hours {terms.max_gpu_hours:g}: there are no GPUs to count; leave it out.")
    for key in ("max_replacements", "head_partition", "head_time"):
        if not terms.pool and getattr(terms, key) is not None:
            raise UsageError(f"--{key.replace('_', '-')} is for --mode pool only; leave it out or add that.")


def read_terms(resolved: Mapping[str, Any]) -> Terms:
    """The terms in a sweep's resolved.json; a sweep from before there were any has none."""
    return Terms.from_words(resolved.get("terms") or {})


def spent(usage: Usage, terms: Terms, now: float | None = None) -> str:
    """Which limit of `terms` is reached, and how to go on; '' while there is something left."""
    used = usage.gpu_hours(now)
    if terms.max_gpu_hours is not None and used >= terms.max_gpu_hours:
        return f"max_gpu_hours {terms.max_gpu_hours:g} is spent ({used:.3g} used); --resume with more goes on"
    if terms.time_limit is not None and usage.seconds(now) >= terms.time_limit:
        return f"time_limit of {terms.time_limit:.0f} s is over; --resume goes on without one"
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
