"""Would this site take the job? Partition, account, QoS, GPUs, memory, features, time, by SLURM's own answers.

What a site does not tell is not held against a request: sbatch itself judges then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from hpo.check.controller import Host, Qos, Site, ask_site, listed, minutes_of
from hpo.check.findings import Findings
from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import format_minutes, parse_memory, parse_minutes
from hpo.errors import ClusterError, UsageError, nearest

_SHORT = 5  # minutes: a job of less has hardly begun when it must save and leave


def check_site(request: SlurmRequest, findings: Findings) -> None:
    """`request` as it is to be submitted, its partition chosen; what it does not say is the site's default. Of several
    partitions, 'gpu,debug', one that takes the job is enough."""
    first: Findings | None = None
    for partition in (request.partition or "").split(","):
        about = Findings()
        judge_request(request, ask_site(partition), partition, about)
        first = first or about
        if not about.errors:
            first = about
            break
    findings.found += first.found if first else []


def judge_request(request: SlurmRequest, site: Site, partition: str, findings: Findings) -> None:
    """All that speaks against `request` at `site`."""
    before = len(findings.errors)
    checks: tuple[Callable[[SlurmRequest, Site, str], None], ...] = (
        _check_open, _check_account, _check_qos, _check_size, _check_time, _check_gpu_limits, _check_gpus,
        _check_memory, _check_features,
    )  # fmt: skip
    for check in checks:
        with findings.on("site"):
            check(request, site, partition)
    _look_at_hosts(request, site, partition, findings)
    if request.time and parse_minutes(request.time) < _SHORT:
        findings.warn("site", f"--time {request.time} is short: a job needs about a minute to start and leaves before "
                              "its end; give 15 minutes or more.")  # fmt: skip
    if len(findings.errors) == before:
        said = [f"{key} {value}" for key in ("account", "qos") if (value := getattr(request, key))]
        findings.ok("site", f"{', '.join([f'partition {partition}', *said])}: SLURM knows nothing against it")


def _check_open(request: SlurmRequest, site: Site, partition: str) -> None:
    words = site.partition or {}
    state = words.get("State", "UP")
    if state not in ("UP", "DOWN"):  # a partition that is down still queues
        raise ClusterError(f"partition {partition} is {state} and takes no jobs; name another with --partition.")
    groups = listed(words.get("AllowGroups"))
    if groups and not site.groups.intersection(groups):
        raise UsageError(
            f"partition {partition} is for the groups {', '.join(groups)}, and you are in "
            f"{', '.join(sorted(site.groups))}; name another with --partition."
        )
    if words.get("RootOnly") == "YES" and os.getuid():
        raise UsageError(f"partition {partition} is for root alone; name another with --partition.")
    if words.get("ReqResv") == "YES" and not request.reservation:
        raise UsageError(f"partition {partition} takes only jobs with a --reservation; add it, or name another.")


def _check_account(request: SlurmRequest, site: Site, partition: str) -> None:
    words, account = site.partition or {}, (request.account or "").lower()  # SLURM keeps them in small letters
    here = [one for one in site.associations or [] if one.partition in ("", partition)]
    yours = list(dict.fromkeys(one.account for one in here))
    matters = bool(site.enforced & {"associations", "limits", "safe", "qos", "wckeys", "all"})
    if account and matters and yours and account not in _small(yours):
        raise UsageError(
            f"account {request.account!r} is not one of yours for partition {partition}.{nearest(account, yours)} You "
            f"have {', '.join(yours)}."
        )
    if matters and site.associations == []:
        raise UsageError(f"this site demands an account and {site.user or 'you'} has none; ask its administrators.")
    if matters and yours and not account and not any(one.default for one in site.associations or []):
        raise UsageError(
            f"this site demands an account; add --account with one of yours: {', '.join(yours)} "
            "(launch/doctor.py writes it into a site file, once for all)."
        )
    allowed, denied = listed(words.get("AllowAccounts")), listed(words.get("DenyAccounts"))
    if account and allowed and account not in _small(allowed):
        mine = [name for name in yours if name.lower() in _small(allowed)]
        hint = f" --account {mine[0]} may use it." if mine else f" It is for {', '.join(allowed)}."
        raise UsageError(f"account {request.account!r} may not use partition {partition}.{hint}")
    if account and not allowed and denied and account in _small(denied):  # SLURM, too, heeds one of the two lists
        raise UsageError(
            f"account {request.account!r} is shut out of partition {partition}; name another with --account."
        )


def _small(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _check_qos(request: SlurmRequest, site: Site, partition: str) -> None:
    if not request.qos or site.qos is None:
        return
    qos, names = request.qos.lower(), [known.name for known in site.qos]
    if qos not in _small(names):
        raise UsageError(
            f"QoS {request.qos!r} does not exist here.{nearest(qos, names)} This site has {', '.join(names)}."
        )
    words = site.partition or {}
    allowed, denied = listed(words.get("AllowQos")), listed(words.get("DenyQos"))
    if (allowed and qos not in _small(allowed)) or (not allowed and denied and qos in _small(denied)):
        able = [name for name in names if not allowed or name.lower() in _small(allowed)]
        able = [name for name in able if allowed or name.lower() not in _small(denied or ())]
        raise UsageError(f"QoS {request.qos!r} is not for partition {partition}, which takes {', '.join(able)}.")
    if site.associations and "qos" in site.enforced:
        account = (request.account or "").lower()
        yours = {name for one in site.associations if account in ("", one.account.lower()) for name in one.qos}
        if yours and qos not in _small(yours):
            raise UsageError(
                f"QoS {request.qos!r} is not one of yours.{nearest(qos, yours)} You have {', '.join(sorted(yours))}."
            )


def _qualities(request: SlurmRequest, site: Site) -> list[Qos]:
    """The QoS that limit the job, the one whose limits hold before the others' first: the partition's own, then the
    job's, unless that has the flag OverPartQOS (https://slurm.schedmd.com/resource_limits.html, "hierarchy")."""
    known = {qos.name.lower(): qos for qos in site.qos or []}
    own = known.get((request.qos or "").lower())
    of_partition = known.get((site.partition or {}).get("QoS", "").lower())
    order = [own, of_partition] if own and "overpartqos" in own.flags else [of_partition, own]
    return [qos for qos in order if qos]


def _lifts(request: SlurmRequest, site: Site, flag: str) -> bool:
    """Whether the job's QoS lifts a limit of the partition, or may do so for all that is known here."""
    if request.qos and site.qos is None:
        return True
    return any(flag in qos.flags for qos in site.qos or [] if qos.name.lower() == (request.qos or "").lower())


def _check_size(request: SlurmRequest, site: Site, partition: str) -> None:
    """Against the partition's own limits on the hosts of a job."""
    words, nodes = site.partition or {}, request.nodes or 1
    least, most = words.get("MinNodes", "0"), words.get("MaxNodes", "UNLIMITED")
    if most.isdigit() and nodes > int(most) and not _lifts(request, site, "partitionmaxnodes"):
        raise UsageError(f"--nodes {nodes}: a job in partition {partition} may have at most {most}; ask for less.")
    if least.isdigit() and nodes < int(least) and not _lifts(request, site, "partitionminnodes"):
        raise UsageError(f"--nodes {nodes}: a job in partition {partition} needs at least {least}; ask for more.")


def _check_time(request: SlurmRequest, site: Site, partition: str) -> None:
    if not request.time:
        return
    asked = parse_minutes(request.time)
    most = minutes_of((site.partition or {}).get("MaxTime", ""))
    if most is not None and asked > most and not _lifts(request, site, "partitiontimelimit"):
        raise UsageError(f"--time {request.time}: partition {partition} has at most {most} minutes; ask for less.")
    limit = next((qos for qos in _qualities(request, site) if qos.minutes is not None), None)
    if limit and asked > (limit.minutes or 0):
        raise UsageError(f"--time {request.time}: QoS {limit.name} allows {format_minutes(limit.minutes or 0)}; ask "
                         "for less, the sweep goes on with --resume.")  # fmt: skip


def _check_gpu_limits(request: SlurmRequest, site: Site, partition: str) -> None:
    gpus, order = (request.nodes or 1) * (request.gpus_per_node or 0), _qualities(request, site)
    for name, of in (("gpus_per_job", "a job"), ("gpus_per_user", "a person")):
        limit = next((qos for qos in order if getattr(qos, name) is not None), None)
        if limit and gpus > getattr(limit, name):
            raise UsageError(f"--nodes {request.nodes or 1} with {request.gpus_per_node} GPUs each: QoS {limit.name} "
                             f"allows {of} {getattr(limit, name)} GPUs; ask for less.")  # fmt: skip


def _check_gpus(request: SlurmRequest, site: Site, partition: str) -> None:
    kind, count, nodes = request.gpu_type or "", request.gpus_per_node or 0, request.nodes or 1
    if not count or not site.hosts:
        return
    kinds = sorted({name for host in site.hosts for name in host.gpus})
    if not kinds:
        raise UsageError(f"partition {partition} has no GPUs; name another, or give --gpus-per-node 0.")
    if kind and kind not in kinds and any(kinds):
        raise UsageError(f"partition {partition} has no GPUs of type {kind!r}.{nearest(kind, kinds)} It has "
                         f"{', '.join(filter(None, kinds))}.")  # fmt: skip
    able = [host for host in site.hosts if _most(host, kind) >= count]
    if len(able) < nodes:
        most = max(_most(host, kind) for host in site.hosts)
        raise UsageError(f"partition {partition} has {len(able)} hosts with {count} {kind + ' ' if kind else ''}GPUs, "
                         f"and {nodes} are asked for; the most on one host is {most}.")  # fmt: skip


def _most(host: Host, kind: str) -> int:
    return host.gpus.get(kind, 0) if kind and any(host.gpus) else sum(host.gpus.values())


def _check_memory(request: SlurmRequest, site: Site, partition: str) -> None:
    if not request.mem or not site.hosts:
        return
    asked, most = parse_memory(request.mem), max(host.memory_mb for host in site.hosts)
    if asked > most > 1:  # RealMemory=1: SLURM was not told what hosts have
        raise UsageError(f"--mem {request.mem}: the largest host of partition {partition} has {most}M; ask for less.")


def _check_features(request: SlurmRequest, site: Site, partition: str) -> None:
    if not request.constraint or not site.hosts:
        return
    known = sorted({feature for host in site.hosts for feature in host.features})
    for word in re.split(r"[&|()\[\],]", re.sub(r"\*\d+", "", request.constraint)):
        if word and word not in known:
            has = f"It has {', '.join(known)}." if known else "It has none."
            raise UsageError(f"no host of partition {partition} has the feature {word!r}.{nearest(word, known)} {has}")


def _look_at_hosts(request: SlurmRequest, site: Site, partition: str, findings: Findings) -> None:
    if (site.partition or {}).get("State") == "DOWN":
        findings.warn("site", f"partition {partition} is down for now: jobs are queued and wait.")
    here = [host for host in site.hosts or [] if not host.away]
    if site.hosts and len(here) < (request.nodes or 1):
        findings.warn("site", f"only {len(here)} of {len(site.hosts)} hosts of partition {partition} are up, and "
                              f"{request.nodes or 1} are asked for: the job will wait.")  # fmt: skip
