"""Would this site take the job? Partition, account, QoS, GPUs, memory, features, time, by SLURM's own answers.

What a site does not tell is not held against a request: sbatch itself judges then.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hpo.check.controller import Host, Qos, Site, ask_site, listed
from hpo.check.findings import Findings
from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import format_minutes, parse_memory, parse_minutes
from hpo.errors import ClusterError, UsageError, nearest

_SHORT = 5  # minutes: a job of less has hardly begun when it must save and leave


def check_site(request: SlurmRequest, findings: Findings) -> None:
    """`request` as it is to be submitted, its partition chosen; what it does not say is the site's default."""
    partition = request.partition or ""
    judge_request(request, ask_site(partition), partition, findings)


def judge_request(request: SlurmRequest, site: Site, partition: str, findings: Findings) -> None:
    """All that speaks against `request` at `site`."""
    before = len(findings.errors)
    checks: tuple[Callable[[SlurmRequest, Site, str], None], ...] = (
        _check_open, _check_account, _check_qos, _check_limits, _check_gpus, _check_memory, _check_features,
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
    least, most = words.get("MinNodes", "0"), words.get("MaxNodes", "UNLIMITED")
    nodes = request.nodes or 1
    if most.isdigit() and nodes > int(most):
        raise UsageError(f"--nodes {nodes}: a job in partition {partition} may have at most {most}; ask for less.")
    if least.isdigit() and nodes < int(least):
        raise UsageError(f"--nodes {nodes}: a job in partition {partition} needs at least {least}; ask for more.")


def _check_account(request: SlurmRequest, site: Site, partition: str) -> None:
    words, account = site.partition or {}, request.account
    yours = list(dict.fromkeys(a.account for a in site.associations or [] if a.partition in ("", partition)))
    matters = bool(site.enforced & {"associations", "limits", "safe", "qos", "all"})
    if account and matters and yours and account not in yours:
        raise UsageError(
            f"account {account!r} is not one of yours for partition {partition}.{nearest(account, yours)} You have "
            f"{', '.join(yours)}."
        )
    if matters and site.associations == []:
        raise UsageError("this site demands an account and you have none; ask its administrators for one.")
    allowed, denied = listed(words.get("AllowAccounts")), listed(words.get("DenyAccounts"))
    if account and allowed and account not in allowed:
        mine = [name for name in yours if name in allowed]
        hint = f" --account {mine[0]} may use it." if mine else f" It is for {', '.join(allowed)}."
        raise UsageError(f"account {account!r} may not use partition {partition}.{hint}")
    if account and denied and account in denied:
        raise UsageError(f"account {account!r} is shut out of partition {partition}; name another with --account.")


def _check_qos(request: SlurmRequest, site: Site, partition: str) -> None:
    qos = request.qos
    if not qos or site.qos is None:
        return
    names = [known.name for known in site.qos]
    if qos not in names:
        raise UsageError(f"QoS {qos!r} does not exist here.{nearest(qos, names)} This site has {', '.join(names)}.")
    words = site.partition or {}
    allowed, denied = listed(words.get("AllowQos")), listed(words.get("DenyQos"))
    if (allowed and qos not in allowed) or (denied and qos in denied):
        able = [name for name in names if (not allowed or name in allowed) and name not in (denied or ())]
        raise UsageError(f"QoS {qos!r} is not for partition {partition}, which takes {', '.join(able)}.")
    if site.associations and "qos" in site.enforced:
        yours = {name for a in site.associations if request.account in (None, a.account) for name in a.qos}
        if yours and qos not in yours:
            raise UsageError(
                f"QoS {qos!r} is not one of yours.{nearest(qos, yours)} You have {', '.join(sorted(yours))}."
            )


def _check_limits(request: SlurmRequest, site: Site, partition: str) -> None:
    """The QoS's limits on time and GPUs, the job's own or that of the partition."""
    names = (request.qos, (site.partition or {}).get("QoS"))
    for qos in (known for known in site.qos or [] if known.name in names):
        if request.time and qos.minutes is not None and parse_minutes(request.time) > qos.minutes:
            raise UsageError(f"--time {request.time}: QoS {qos.name} allows {format_minutes(qos.minutes)}; ask for "
                             "less, the sweep goes on with --resume.")  # fmt: skip
        _check_gpu_limit(request, qos)


def _check_gpu_limit(request: SlurmRequest, qos: Qos) -> None:
    gpus = (request.nodes or 1) * (request.gpus_per_node or 0)
    for limit, of in ((qos.gpus_per_job, "a job"), (qos.gpus_per_user, "a person")):
        if limit is not None and gpus > limit:
            raise UsageError(f"--nodes {request.nodes or 1} with {request.gpus_per_node} GPUs each: QoS {qos.name} "
                             f"allows {of} {limit} GPUs; ask for less.")  # fmt: skip


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
    if asked > most:
        raise UsageError(f"--mem {request.mem}: the largest host of partition {partition} has {most}M; ask for less.")


def _check_features(request: SlurmRequest, site: Site, partition: str) -> None:
    if not request.constraint or not site.hosts:
        return
    known = sorted({feature for host in site.hosts for feature in host.features})
    for word in re.findall(r"[\w.-]+", re.sub(r"\*\d+", "", request.constraint)):
        if word not in known:
            has = f"It has {', '.join(known)}." if known else "It has none."
            raise UsageError(f"no host of partition {partition} has the feature {word!r}.{nearest(word, known)} {has}")


def _look_at_hosts(request: SlurmRequest, site: Site, partition: str, findings: Findings) -> None:
    if (site.partition or {}).get("State") == "DOWN":
        findings.warn("site", f"partition {partition} is down for now: jobs are queued and wait.")
    here = [host for host in site.hosts or [] if not host.away]
    if site.hosts and len(here) < (request.nodes or 1):
        findings.warn("site", f"only {len(here)} of {len(site.hosts)} hosts of partition {partition} are up, and "
                              f"{request.nodes or 1} are asked for: the job will wait.")  # fmt: skip
