"""What a job asks SLURM for: the flags, the defaults for what was not said, and what the partition can give.

Standard library only; one call of sinfo.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpo.config import TERM_KEYS
from hpo.errors import ClusterError, UsageError, nearest

_DEADLINE_S = 20
_NODES, _GPUS, _MINUTES = 1, 2, 60  # for a job about which nothing was said
_CPUS_WITHOUT_GPU = 16
_SIGNAL_S = 45  # SLURM's USR2 before the walltime, or an eighth of it: the supervisor's own clock comes first


@dataclass(frozen=True, kw_only=True)
class SlurmRequest:
    """One job. None: not said; SLURM's or the site's default holds."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    constraint: str | None = None

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> SlurmRequest:
        """From flags or a sweep file's `slurm:`; checked here, so that sbatch need not guess. Words that are no
        request to SLURM, as hpo.cluster.terms has them, are passed over.

        Raises:
            UsageError: a number is none, a time is none of SLURM's, or a text has a space or control character.
        """
        values: dict[str, Any] = {}
        for name, value in words.items():
            if value is None or name in TERM_KEYS:
                continue
            if name in ("nodes", "gpus_per_node", "cpus_per_task"):
                values[name] = check_whole(name, value, 0 if name == "gpus_per_node" else 1)
            elif not re.fullmatch(r"[!-~]+", str(value)):
                raise UsageError(f"--{name.replace('_', '-')} must be one word, got {value!r}.")
            else:
                values[name] = str(value)
        if "time" in values:
            parse_minutes(values["time"])
        return cls(**values)

    def merged(self, stronger: SlurmRequest) -> SlurmRequest:
        """This request with everything that `stronger` says put in its place."""
        return replace(self, **{name: value for name, value in vars(stronger).items() if value is not None})

    def directives(self, job_name: str, log: str) -> list[str]:
        """The #SBATCH lines, without the marker."""
        words = [f"--{name.replace('_', '-')}={value}" for name, value in vars(self).items() if value not in (None, 0)]
        fixed = [f"--job-name={job_name}", "--ntasks-per-node=1", f"--output={shlex.quote(log)}", "--open-mode=append"]
        signal = min(_SIGNAL_S, parse_minutes(self.time) * 60 // 8) if self.time else _SIGNAL_S
        return [*words, *fixed, f"--signal=USR2@{signal}", "--requeue", "--no-kill"]


@dataclass(frozen=True)
class Partition:
    """What sinfo says: of a partition's hosts the largest GPU count, and CPUs and memory of the hosts that have it."""

    name: str
    default: bool
    nodes: int
    gpus: int
    cpus: int
    memory_mb: int
    minutes: int | None  # None: no limit


def read_partitions() -> list[Partition]:
    """The partitions of the cluster that this machine belongs to.

    Raises:
        ClusterError: there is no SLURM here, or it does not answer.
    """
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        raise ClusterError(
            "SLURM's sbatch is not on this machine's PATH; run this on a login node, or add --cluster local."
        )
    command = ["sinfo", "-h", "-o", "%P|%D|%G|%l|%c|%m"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"sinfo gave no answer in {_DEADLINE_S} s; SLURM's controller may be down, try again later."
        ) from None
    if answer.returncode:
        raise ClusterError(f"sinfo failed: {' '.join(answer.stderr.split())}; is SLURM up on this machine?")
    return parse_partitions(answer.stdout)


def parse_partitions(text: str) -> list[Partition]:
    """Partitions from lines of 'gpu*|3|gpu:4|1:00:00|8|8000', one or more lines a partition."""
    found: dict[str, Partition] = {}
    for line in filter(None, text.splitlines()):
        name, nodes, gres, limit, cpus, memory = line.split("|")
        new = Partition(
            name=name.rstrip("*"),
            default=name.endswith("*"),
            nodes=int(nodes),
            gpus=sum(int(count) for count in re.findall(r"gpu(?::[\w.-]+)?:(\d+)", gres)),
            cpus=int(cpus.rstrip("+")),
            memory_mb=int(memory.rstrip("+")),
            minutes=None if limit in ("infinite", "UNLIMITED") else parse_minutes(limit),
        )
        old = found.get(new.name)
        if old:
            larger = max(old, new, key=lambda part: (part.gpus, part.cpus))
            new = replace(larger, nodes=old.nodes + new.nodes)
        found[new.name] = new
    return list(found.values())


def choose_partition(name: str | None, partitions: list[Partition]) -> Partition:
    """The partition of that name, or the site's default.

    Raises:
        UsageError: there is none of that name, or no default and none was named.
    """
    for partition in partitions:
        if partition.name == name or (name is None and partition.default):
            return partition
    names = [partition.name for partition in partitions]
    if name is None:
        raise UsageError(f"this site has no default partition; add --partition with one of {', '.join(names)}.")
    raise UsageError(f"partition {name!r} does not exist here.{nearest(name, names)} sinfo knows {', '.join(names)}.")


def fill_in(request: SlurmRequest, partition: Partition) -> tuple[SlurmRequest, list[str]]:
    """The request with our defaults, each lowered to what the partition has, and what to tell the person of it.

    What a person asked for is not lowered; see check_fits.
    """
    notes = []
    nodes = min(_NODES, partition.nodes)
    gpus = min(_GPUS, partition.gpus)
    minutes = min(_MINUTES, partition.minutes or _MINUTES)
    given_gpus = request.gpus_per_node if request.gpus_per_node is not None else gpus
    share = min(1.0, given_gpus / partition.gpus) if partition.gpus and given_gpus else 1.0
    cpus = max(1, int(partition.cpus * share)) if given_gpus else min(partition.cpus, _CPUS_WITHOUT_GPU)
    memory = int(partition.memory_mb * (share if given_gpus else cpus / max(1, partition.cpus)))
    filled = replace(
        request,
        partition=request.partition or partition.name,
        nodes=request.nodes or nodes,
        gpus_per_node=given_gpus,
        cpus_per_task=request.cpus_per_task or cpus,
        mem=request.mem or (f"{memory}M" if memory > 1 else None),
        time=request.time or format_minutes(minutes),
    )
    for name in ("nodes", "gpus_per_node", "cpus_per_task", "mem", "time"):
        if getattr(request, name) is None and getattr(filled, name) is not None:
            notes.append(f"--{name.replace('_', '-')} {getattr(filled, name)}")
    return filled, notes


def check_fits(request: SlurmRequest, partition: Partition) -> None:
    """Refuses what the partition can never give: many sites let such a job wait for ever instead.

    Raises:
        UsageError: more hosts, GPUs or CPUs a host, or time than the partition has.
    """
    limits = (
        ("nodes", request.nodes, partition.nodes, "hosts"),
        ("gpus-per-node", request.gpus_per_node, partition.gpus, "GPUs a host"),
        ("cpus-per-task", request.cpus_per_task, partition.cpus, "CPUs a host"),
        ("time", parse_minutes(request.time) if request.time else None, partition.minutes, "minutes"),
    )
    for flag, asked, limit, unit in limits:
        if asked is not None and limit is not None and asked > limit:
            given = request.time if flag == "time" else asked
            raise UsageError(f"--{flag} {given}: partition {partition.name} has at most {limit} {unit}; ask for less.")


def parse_minutes(text: str) -> int:
    """Minutes of a SLURM time: 30, 30:00, 1:30:00, 2-0, 2-12:00, 1-0:0:0. Begun minutes count whole.

    Raises:
        UsageError: it is none of these forms.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if not match:
        raise UsageError(f"time {text!r} is not one of SLURM's forms: minutes, H:MM:SS, D-H, D-HH:MM:SS.")
    days, a, b, c = (int(part) if part else 0 for part in match.groups())
    if match.group(1):  # D-H[:M[:S]]
        seconds = ((days * 24 + a) * 60 + b) * 60 + c
    elif match.group(4):  # H:M:S
        seconds = (a * 60 + b) * 60 + c
    else:  # M[:S]
        seconds = a * 60 + b
    if seconds <= 0:
        raise UsageError(f"time {text!r} is no time at all; give at least a minute.")
    return -(-seconds // 60)


def format_minutes(minutes: int) -> str:
    """'01:00:00', '1-12:00:00'."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{f'{days}-' if days else ''}{rest // 60:02d}:{rest % 60:02d}:00"


def check_whole(name: str, value: Any, low: int) -> int:
    """`value` of flag `name` as a whole number of at least `low`."""
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < low:
        raise UsageError(f"--{name.replace('_', '-')} must be a whole number of at least {low}, got {value!r}.")
    return int(value)
