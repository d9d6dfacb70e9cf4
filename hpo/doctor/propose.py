"""A first site file from what SLURM says, and the hosts of a short job."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.check.controller import Site as Answers
from hpo.cluster.partitions import Partition, choose_partitions
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import config_folders
from hpo.cluster.words import format_minutes
from hpo.errors import UsageError
from hpo.layout import write_text


def cluster_name() -> str:
    """SLURM's name of the cluster, fit for a file."""
    try:
        answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cluster"
    match = re.search(r"^ClusterName\s*=\s*([\w.-]+)", answer.stdout, re.MULTILINE)
    return match.group(1) if match else "cluster"


def choose_for_gpus(name: str | None, partitions: list[Partition]) -> Partition:
    """The partition named; else the site's default if it has GPUs or none has; else the one with most GPUs a host."""
    if name:
        return choose_partitions(name, partitions)[0]
    if not partitions:
        raise UsageError("sinfo names no partition that you may see; ask the administrators for access.")
    return max(partitions, key=lambda one: (one.gpus > 0, one.default, one.gpus, one.nodes))


def accounts_of(answers: Answers) -> list[str]:
    """This person's accounts, the default one first."""
    known = sorted(answers.associations or [], key=lambda one: not one.default)
    return list(dict.fromkeys(one.account for one in known))


def choose_account(answers: Answers) -> str | None:
    """The one account that there is; of several the default one, or where the site demands one and there is no default,
    the first. None: the site decides."""
    accounts = accounts_of(answers)
    return accounts[0] if len(accounts) == 1 or (accounts and answers.enforced) else None


def propose(
    partition: Partition,
    partitions: list[Partition],
    answers: Answers,
    request: SlurmRequest,
    hosts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of a site file. What was asked for by flags is kept. `hosts`: what those of the short jobs said of
    themselves, see hpo.doctor.node."""
    accounts, account = accounts_of(answers), request.account or choose_account(answers)
    kinds = sorted({kind for host in answers.hosts or [] for kind in host.gpus if kind})
    gpus = f"{kinds[0]}:{partition.gpus}" if len(kinds) == 1 else str(partition.gpus)
    others = ", ".join(f"{one.name} ({one.nodes} hosts, {one.gpus} GPUs)" for one in partitions if one != partition)
    lines = [
        "# Written by launch/doctor.py from what SLURM says; yours to edit. docs/sites.md lists the keys.",
        "slurm:",
        f"  partition: {partition.name}" + (f"   # or {others}" if others else ""),
        f"  account: {account}" + (f"   # yours: {', '.join(accounts)}" if len(accounts) > 1 else "")
        if account
        else "",
        f"  qos: {request.qos}" if request.qos else "",
        f"  gpus_per_node: {gpus}" + (f"   # types: {', '.join(kinds)}" if len(kinds) > 1 else "")
        if partition.gpus
        else "",
        "limits:",
        f"  nodes: {partition.nodes}",
        f"  time: {format_minutes(partition.minutes)}" if partition.minutes else "",
        "# modules: [cuda/12.4]",
        "# activate: {venv: DIR}            # or {conda: NAME}, or {apptainer: IMAGE}",
        "# runs: DIR                        # where sweeps go: storage that compute nodes see",
        "# weights: DIR                     # HF_HOME",
        _places_line(hosts),
        _interface_line(hosts),
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _places_line(hosts: Sequence[Mapping[str, Any]]) -> str:
    """Directories that are on a disk of every host that was asked, in the first one's order."""
    common = [place for place in hosts[0]["places"] if all(place in host["places"] for host in hosts)] if hosts else []
    if not common:
        return "# node_local: [$SLURM_TMPDIR]    # " + (f"none found on {_names(hosts)}" if hosts else "of each host")
    least = min(host["places"][common[0]] for host in hosts)
    return f"node_local: [{', '.join(common)}]   # {least / 1e9:.3g} GB free in the first, on {_names(hosts)}"


def _interface_line(hosts: Sequence[Mapping[str, Any]]) -> str:
    """The interface by which the hosts reached each other, where it is another than they take by themselves."""
    ways = ways_between(hosts)
    if not hosts:
        return "# interface: ib0                  # by which hosts reach each other"
    own = str(hosts[0].get("interface", ""))
    if not ways:
        return f"# interface: {own or 'ib0'}"
    if ways[0] != own:
        also = f", which has {own} by itself" if own else ""
        return f"interface: {ways[0]}   # {_names(hosts[1:])} reached {hosts[0]['host']} by it{also}"
    return f"# interface: {own}                 # hosts take it by themselves" + (
        f"; {', '.join(ways[1:])} would do as well" if ways[1:] else ""
    )


def ways_between(hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Interfaces by which every host reached the first, the best first: of a network made for clusters, then the one
    that the first takes by itself."""
    if len(hosts) < 2:
        return []
    about = hosts[0]["interfaces"]
    ways = [name for name in about if all(name in host.get("ways", ()) for host in hosts[1:])]
    return sorted(ways, key=lambda name: (not about[name]["fast"], name != hosts[0].get("interface")))


def _names(hosts: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(host["host"]) for host in hosts)


def write_first(name: str, text: str) -> tuple[Path | None, bool]:
    """Writes the person's site file unless there is one, and makes it the default unless there is one. The path of
    the file written, or None; and whether it is the default."""
    folder = config_folders()[0]
    path, config = folder / "sites" / f"{name}.yaml", folder / "config.yaml"
    if path.exists():
        return None, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        if not config.exists():
            write_text(config, f"site: {name}\n")
            return path, True
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); set XDG_CONFIG_HOME.") from None
    return path, False
