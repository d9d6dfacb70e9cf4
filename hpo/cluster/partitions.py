"""What a site's partitions have, and a job's defaults and bounds by it.

Standard library only; one call of sinfo, two where a partition is named that it hides, and one of scontrol.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo.cluster.commands import ask_slurm
from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import UNLIMITED, count_gpus, format_minutes, parse_memory, parse_minutes
from hpo.errors import ClusterError, UsageError, nearest

_DEADLINE_S = 20
_NODES, _GPUS, _MINUTES = 1, 2, 60  # for a job about which nothing was said
_CPUS_WITHOUT_GPU = 16
_FORMAT = "%P|%D|%G|%l|%c|%m"  # name, hosts, GPUs, longest job, CPUs, MiB


@dataclass(frozen=True)
class Hosts:
    """Hosts of a partition that are alike. gpus: type -> count on each, '' where no type is said; memory_mb 1: SLURM
    was not told."""

    count: int
    gpus: Mapping[str, int]
    cpus: int
    memory_mb: int

    def gpus_of(self, kind: str | None) -> int:
        """GPUs of that type on each host; of any type where none is named, or where SLURM knows no types."""
        return self.gpus.get(kind, 0) if kind and any(self.gpus) else sum(self.gpus.values())


@dataclass(frozen=True)
class Partition:
    """minutes: the longest job, None without limit."""

    name: str
    default: bool
    minutes: int | None
    hosts: tuple[Hosts, ...]

    @property
    def nodes(self) -> int:
        return sum(alike.count for alike in self.hosts)

    @property
    def gpus(self) -> int:
        """The most on one host."""
        return max((alike.gpus_of(None) for alike in self.hosts), default=0)

    @property
    def cpus(self) -> int:
        """The most on one host."""
        return max((alike.cpus for alike in self.hosts), default=0)

    @property
    def memory_mb(self) -> int | None:
        """The most on one host; None: SLURM was not told."""
        most = max((alike.memory_mb for alike in self.hosts), default=0)
        return most if most > 1 else None


def read_partitions(named: str | None = None) -> list[Partition]:
    """The partitions of the cluster that this machine belongs to; hidden ones only where `named` is among them.

    Raises:
        ClusterError: there is no SLURM here, or it does not answer.
    """
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        raise ClusterError(
            "SLURM's sbatch is not on this machine's PATH; run this on a login node, or add --cluster local."
        )
    shown = {partition.name: partition for partition in _sinfo([])}
    if not set(_names(named)) <= shown.keys():
        hidden = [partition for partition in _sinfo(["--all"]) if partition.name in _names(named)]
        shown = {**{partition.name: partition for partition in hidden}, **shown}
    limits = _limits()
    return [_lower(partition, limits.get(name, {})) for name, partition in shown.items()]


def _sinfo(flags: list[str]) -> list[Partition]:
    command = ["sinfo", "--noheader", "--noconvert", *flags, "-o", _FORMAT]
    try:
        answer = ask_slurm(command, _DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"sinfo gave no answer in {_DEADLINE_S} s; SLURM's controller may be down, try again later."
        ) from None
    if answer.returncode:
        raise ClusterError(f"sinfo failed: {' '.join(answer.stderr.split())}; is SLURM up on this machine?")
    return parse_partitions(answer.stdout)


def _limits() -> dict[str, dict[str, str]]:
    """What scontrol says of each partition; {} where it says nothing: then sbatch will judge."""
    command = ["scontrol", "--all", "--oneliner", "show", "partition"]
    try:
        answer = ask_slurm(command, _DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in answer.stdout.splitlines()]
    return {row.get("PartitionName", ""): row for row in rows}


def _lower(partition: Partition, limits: Mapping[str, str]) -> Partition:
    """With what a job may have of each host, where that is less than the host has: MaxCPUsPerNode, as where jobs with
    and without GPUs share hosts, and MaxMemPerNode."""
    cpus, memory = limits.get("MaxCPUsPerNode", ""), limits.get("MaxMemPerNode", "")
    hosts = [
        replace(
            alike,
            cpus=min(alike.cpus, int(cpus)) if cpus.isdigit() else alike.cpus,
            memory_mb=min(alike.memory_mb, int(memory)) if memory.isdigit() else alike.memory_mb,
        )
        for alike in partition.hosts
    ]
    return replace(partition, hosts=tuple(hosts))


def parse_partitions(text: str) -> list[Partition]:
    """Partitions from lines of 'gpu*|3|gpu:4|1:00:00|8|8000', one for each sort of hosts."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        if line.count("|") != _FORMAT.count("|"):
            continue  # 'CLUSTER: name', where SLURM_CLUSTERS is set
        name, count, gres, limit, cpus, memory = line.split("|")
        hosts = Hosts(int(count), count_gpus(gres), int(cpus.rstrip("+")), int(memory.rstrip("+")))
        minutes = None if limit.upper() in UNLIMITED else parse_minutes(limit)
        new = Partition(name.rstrip("*"), name.endswith("*"), minutes, (hosts,) if hosts.count else ())
        old = found.get(new.name)
        found[new.name] = replace(new, hosts=old.hosts + new.hosts) if old else new
    return list(found.values())


def _names(named: str | None) -> list[str]:
    return named.split(",") if named else []


def choose_partitions(named: str | None, partitions: Sequence[Partition]) -> list[Partition]:
    """Those of 'gpu' or 'gpu,debug', of which SLURM takes the one that can start first; or the site's default.

    Raises:
        UsageError: there is none of that name, or no default and none was named.
    """
    names, known = _names(named), {partition.name: partition for partition in partitions}
    for name in names:
        if name not in known:
            raise UsageError(
                f"partition {name!r} does not exist here.{nearest(name, known)} sinfo knows {', '.join(known)}."
            )
    chosen = [known[name] for name in names] or [partition for partition in partitions if partition.default]
    if not chosen:
        raise UsageError(f"this site has no default partition; add --partition with one of {', '.join(known)}.")
    return chosen


def choose_partition(request: SlurmRequest, partitions: Sequence[Partition]) -> Partition:
    """Of those that `request` names, or the default, the first that it fits into.

    Raises:
        UsageError: see choose_partitions and check_fits.
    """
    chosen = choose_partitions(request.partition, partitions)
    refusals = []
    for partition in chosen:
        try:
            check_fits(request, partition)
        except UsageError as error:
            refusals.append(error)
        else:
            return partition
    raise refusals[0]


def fill_in(request: SlurmRequest, partition: Partition) -> tuple[SlurmRequest, list[str]]:
    """The request with our defaults, each lowered to what the partition has, and what to tell the person of it.

    What a person asked for is not lowered; see check_fits.
    """
    hosts = _hosts_for(request, partition)
    nodes, minutes = min(_NODES, partition.nodes), min(_MINUTES, partition.minutes or _MINUTES)
    has = hosts.gpus_of(request.gpu_type)
    gpus = request.gpus_per_node if request.gpus_per_node is not None else min(_GPUS, has)
    share = min(1.0, gpus / has) if has and gpus else 1.0
    cpus = max(1, int(hosts.cpus * share)) if gpus else min(hosts.cpus, _CPUS_WITHOUT_GPU)
    cpus = hosts.cpus if request.exclusive == "yes" else cpus
    memory = int(hosts.memory_mb * (share if gpus else cpus / max(1, hosts.cpus)))
    filled = replace(
        request,
        partition=request.partition or partition.name,
        nodes=request.nodes or nodes,
        gpus_per_node=gpus,
        cpus_per_task=request.cpus_per_task or cpus,
        mem=request.mem or _memory_word(request, memory),
        time=request.time or format_minutes(minutes),
    )
    notes = []
    for name in ("nodes", "gpus_per_node", "cpus_per_task", "mem", "time"):
        if getattr(request, name) is None and getattr(filled, name) is not None:
            notes.append(f"--{name.replace('_', '-')} {getattr(filled, name)}")
    return filled, notes


def _hosts_for(request: SlurmRequest, partition: Partition) -> Hosts:
    """The hosts by which defaults are made: those with as many GPUs as are asked for, of these the most frequent; where
    there are fewer of them than the job wants, the smallest."""
    most = max((alike.gpus_of(request.gpu_type) for alike in partition.hosts), default=0)
    least = request.gpus_per_node if request.gpus_per_node is not None else min(_GPUS, most)
    able = [alike for alike in partition.hosts if alike.gpus_of(request.gpu_type) >= least] or list(partition.hosts)
    if not able:
        return Hosts(0, {}, 1, 0)
    usual = max(able, key=lambda alike: (alike.count, alike.cpus))
    return usual if usual.count >= (request.nodes or 1) else min(able, key=lambda alike: (alike.cpus, alike.memory_mb))


def _memory_word(request: SlurmRequest, share_mb: int) -> str | None:
    """The default of --mem: the job's share, or all of a host of its own; None where SLURM does not count it."""
    if request.mem_per_gpu or request.mem_per_cpu:
        return None
    if request.exclusive == "yes":
        return "0"
    return f"{share_mb}M" if share_mb > 1 else None


def check_fits(request: SlurmRequest, partition: Partition) -> None:
    """Refuses what the partition can never give: many sites let such a job wait for ever instead. A QoS may lift the
    limit on time: with one, that is left to hpo.check.site, which asks for it.

    Raises:
        UsageError: more hosts, GPUs or CPUs a host, or time than the partition has.
    """
    limits = (
        ("nodes", request.nodes, partition.nodes, "hosts"),
        ("gpus-per-node", request.gpus_per_node, partition.gpus, "GPUs a host"),
        ("cpus-per-task", request.cpus_per_task, partition.cpus, "CPUs a host"),
        ("mem", parse_memory(request.mem) if request.mem else None, partition.memory_mb, "MB a host"),
        ("time", parse_minutes(request.time) if request.time else None, None if request.qos else partition.minutes,
         "minutes"),
    )  # fmt: skip
    for flag, asked, limit, unit in limits:
        if asked is not None and limit is not None and asked > limit:
            given = getattr(request, flag) if flag in ("time", "mem") else asked
            raise UsageError(f"--{flag} {given}: partition {partition.name} has at most {limit} {unit}; ask for less.")
