"""What SLURM says of a site to one person, asked once: partitions, hosts, associations, QoS. A few commands at a time.

Each answer is parsed by a function of its text, so that recorded answers of other sites can be read as well.
"""

from __future__ import annotations

import getpass
import grp
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from hpo.cluster.words import UNLIMITED, count_gpus, parse_minutes
from hpo.errors import UsageError

_DEADLINE_S = 5
_ALL = ("ALL", "", "N/A", "(null)")
_AWAY = ("down", "drain", "drained", "draining", "fail", "failing", "error", "maint", "unknown", "inval", "future",
         "no_respond", "not_responding")  # fmt: skip

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
    flags: frozenset[str] = frozenset()  # in small letters


@dataclass(frozen=True)
class Association:
    """An account that this person may use, there with these QoS; partition '' is any. default: it is charged where no
    account is named."""

    account: str
    partition: str
    qos: tuple[str, ...]
    default: bool = False


@dataclass(frozen=True)
class Site:
    """None: SLURM gave no answer, and nothing is checked by it."""

    partition: Words | None
    hosts: list[Host] | None
    associations: list[Association] | None
    qos: list[Qos] | None
    enforced: frozenset[str]  # of AccountingStorageEnforce
    groups: frozenset[str]
    user: str = ""


def ask_site(partition: str) -> Site:
    """The site as it concerns jobs in `partition`."""
    user = _user()
    questions: dict[str, tuple[list[str], Callable[[str], object]]] = {
        "partition": (["scontrol", "--all", "show", "partition", partition, "-o"], parse_words),
        "hosts": (
            ["sinfo", "--noheader", "--noconvert", "-N", "-p", partition, "-o", "%N|%G|%f|%m|%c|%T"],
            parse_hosts,
        ),
        "associations": (
            ["sacctmgr", "-nP", "show", "user", "where", f"name={user}", "withassoc",
             "format=Cluster,Account,Partition,QOS,DefaultAccount"],
            lambda text: text,
        ),
        "qos": (["sacctmgr", "-nP", "show", "qos", "format=Name,MaxWall,MaxTRES,MaxTRESPU,Flags"], parse_qos),
        "config": (["scontrol", "show", "config"], parse_config),
    }  # fmt: skip
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = {name: pool.submit(_ask, command, parse) for name, (command, parse) in questions.items()}
        answers: dict[str, Any] = {name: future.result() for name, future in futures.items()}
    config = answers.pop("config") or {}
    said = answers.pop("associations")
    return Site(
        **answers,
        associations=None if said is None else parse_associations(said, config.get("ClusterName", "")),
        enforced=frozenset(config.get("AccountingStorageEnforce", "").lower().split(",")) - {"", "none", "(null)"},
        groups=_groups(),
        user=user,
    )


def _ask(command: list[str], parse: Callable[[str], T]) -> T | None:
    """The parsed answer; None where there is none, or none that can be read: then SLURM itself will judge."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        return parse(answer.stdout) if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, UsageError):
        return None


def _user() -> str:
    """As SLURM knows this person: by number, whatever LOGNAME says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser()


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


def parse_hosts(text: str) -> list[Host] | None:
    """Hosts from lines of 'node1|gpu:a100:4(S:0-1),shard:8|zen3,ib|8000|8|idle'; None: nothing was said."""
    hosts = {}
    for line in text.splitlines():
        if line.count("|") != 5:
            continue  # 'CLUSTER: name', where SLURM_CLUSTERS is set
        name, gres, features, memory, cpus, state = line.split("|")
        named = frozenset(features.replace("(null)", "").split(",")) - {""}
        hosts[name] = Host(
            name, count_gpus(gres), named, int(memory.rstrip("+")), int(cpus.rstrip("+")), is_away(state)
        )
    return list(hosts.values()) or None


def is_away(state: str) -> bool:
    """Whether a host in a state of sinfo's takes no jobs: 'down', 'drained*', 'mixed+drain', and any that does not
    respond, 'idle*'. 'idle~' is powered off, and is started for a job."""
    return state.endswith("*") or any(word.rstrip("*$~#!%@^-") in _AWAY for word in state.lower().split("+"))


def parse_associations(text: str, cluster: str = "") -> list[Association]:
    """From lines of 'cluster|account|partition|qos1,qos2|default account', those of `cluster`, of '' all."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    return [
        Association(account, partition, tuple(name.lstrip("+") for name in qos.split(",") if name), account == default)
        for where, account, partition, qos, default in rows
        if account and (not cluster or where == cluster)
    ]


def parse_qos(text: str) -> list[Qos] | None:
    """From lines of 'name|1-00:00:00|gres/gpu=4|gres/gpu=8|DenyOnLimit,OverPartQOS'; None: nothing was said."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    return [
        Qos(name, minutes_of(wall), _gpus(per_job), _gpus(per_user), frozenset(flags.lower().split(",")) - {""})
        for name, wall, per_job, per_user, flags in rows
    ] or None


def minutes_of(limit: str) -> int | None:
    """Of a limit on time; None where it is none."""
    return None if not limit or limit.upper() in UNLIMITED else parse_minutes(limit)


def _gpus(tres: str) -> int | None:
    match = re.search(r"\bgres/gpu=(\d+)", tres)
    return int(match.group(1)) if match else None


def parse_config(text: str) -> Words:
    """'ClusterName             = big' of `scontrol show config`, line by line."""
    return dict(re.findall(r"^(\w+)\s*=\s*(\S+)", text, re.MULTILINE))


def listed(words: str | None) -> tuple[str, ...] | None:
    """'a,b' of a partition's AllowAccounts as names; None where it is ALL or nothing is said."""
    return None if words is None or words in _ALL else tuple(words.split(","))
