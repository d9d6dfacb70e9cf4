"""What SLURM says of a site to one person, asked once: partitions, hosts, associations, QoS. A few commands at a time.

Each answer is parsed by a function of its text, so that recorded answers of other sites can be read as well.
"""

from __future__ import annotations

import getpass
import grp
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from hpo.cluster.words import count_gpus, parse_minutes
from hpo.errors import UsageError

_DEADLINE_S = 5
_ALL = ("ALL", "", "N/A", "(null)")
_AWAY = ("down", "drain", "fail", "maint", "unknown", "inval", "no_respond", "not_responding")

T = TypeVar("T")
Words = dict[str, str]


@dataclass(frozen=True)
class Host:
    """One host. gpus: type -> count, '' where no type is said."""

    name: str
    gpus: Mapping[str, int]
    features: frozenset[str]
    memory_mb: int
    cpus: int
    away: bool  # down, drained or the like


@dataclass(frozen=True)
class Qos:
    """A quality of service and its limits; None: none."""

    name: str
    minutes: int | None
    gpus_per_job: int | None
    gpus_per_user: int | None


@dataclass(frozen=True)
class Association:
    """An account that this person may use, there with these QoS; partition '' is any."""

    account: str
    partition: str
    qos: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """None: SLURM gave no answer, and nothing is checked by it."""

    partition: Words | None
    hosts: list[Host] | None
    associations: list[Association] | None
    qos: list[Qos] | None
    enforced: frozenset[str]  # of AccountingStorageEnforce
    groups: frozenset[str]


def ask_site(partition: str) -> Site:
    """The site as it concerns jobs in `partition`."""
    user = getpass.getuser()
    questions: dict[str, tuple[list[str], Callable[[str], object]]] = {
        "partition": (["scontrol", "show", "partition", partition, "-o"], parse_words),
        "hosts": (["sinfo", "-h", "-N", "-p", partition, "-o", "%N|%G|%f|%m|%c|%T"], parse_hosts),
        "associations": (
            ["sacctmgr", "-nP", "show", "assoc", "where", f"user={user}", "format=Account,Partition,QOS"],
            parse_associations,
        ),
        "qos": (["sacctmgr", "-nP", "show", "qos", "format=Name,MaxWall,MaxTRES,MaxTRESPU"], parse_qos),
        "enforced": (["scontrol", "show", "config"], parse_enforced),
    }
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = {name: pool.submit(_ask, command, parse) for name, (command, parse) in questions.items()}
        answers = {name: future.result() for name, future in futures.items()}
    answers["enforced"] = answers["enforced"] or frozenset()
    return Site(**answers, groups=_groups())  # type: ignore[arg-type]


def _ask(command: list[str], parse: Callable[[str], T]) -> T | None:
    """The parsed answer; None where there is none, or none that can be read: then SLURM itself will judge."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        return parse(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else None
    except (OSError, subprocess.TimeoutExpired, ValueError, UsageError):
        return None


def _groups() -> frozenset[str]:
    """Names of the groups that this person is in; those without a name are left out."""
    names = set()
    for number in {*os.getgroups(), os.getgid()}:
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return frozenset(names)


def parse_words(text: str) -> Words:
    """'PartitionName=gpu State=UP' as {'PartitionName': 'gpu', 'State': 'UP'}."""
    return dict(word.partition("=")[::2] for word in text.split() if "=" in word)


def parse_hosts(text: str) -> list[Host]:
    """Hosts from lines of 'node1|gpu:a100:4(S:0-1),shard:8|zen3,ib|8000|8|idle'."""
    hosts = {}
    for line in filter(None, text.splitlines()):
        name, gres, features, memory, cpus, state = line.split("|")
        away = any(word in state.lower() for word in _AWAY)
        named = frozenset(features.replace("(null)", "").split(",")) - {""}
        hosts[name] = Host(name, count_gpus(gres), named, int(memory.rstrip("+")), int(cpus.rstrip("+")), away)
    return list(hosts.values())


def parse_associations(text: str) -> list[Association]:
    """From lines of 'account|partition|qos1,qos2'."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return [Association(account, partition, tuple(filter(None, qos.split(",")))) for account, partition, qos in rows]


def parse_qos(text: str) -> list[Qos]:
    """From lines of 'name|1-00:00:00|gres/gpu=4|gres/gpu=8'."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 3]
    return [
        Qos(name, parse_minutes(wall) if wall else None, _gpus(per_job), _gpus(per_user))
        for name, wall, per_job, per_user in rows
    ]


def _gpus(tres: str) -> int | None:
    match = re.search(r"\bgres/gpu=(\d+)", tres)
    return int(match.group(1)) if match else None


def parse_enforced(text: str) -> frozenset[str]:
    """The words of AccountingStorageEnforce in `scontrol show config`."""
    match = re.search(r"^AccountingStorageEnforce\s*=\s*(\S+)", text, re.MULTILINE)
    return frozenset(match.group(1).lower().split(",")) if match else frozenset()


def listed(words: str | None) -> tuple[str, ...] | None:
    """'a,b' of a partition's AllowAccounts as names; None where it is ALL or nothing is said."""
    return None if words is None or words in _ALL else tuple(words.split(","))
