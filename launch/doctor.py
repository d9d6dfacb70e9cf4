"""Looks at a cluster, writes a first site file for it, and tries it with a job of a minute on one host and on two.

python launch/doctor.py                          # on a login node
python launch/doctor.py --partition gpu --account abc
python launch/doctor.py --site big --no-jobs     # only what can be seen from here
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import prefer_project_environment

    prefer_project_environment()

import argparse
import json
import os
from typing import Any

from hpo.check.controller import ask_site
from hpo.check.findings import Finding, Findings
from hpo.check.site import judge_request
from hpo.cluster.completion import combine_requests
from hpo.cluster.partitions import Partition, check_fits, fill_in, read_partitions
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, choose_site, expand_runs
from hpo.doctor.environment import check_environment
from hpo.doctor.jobs import ask_hosts
from hpo.doctor.propose import choose_account, choose_for_gpus, cluster_name, propose, write_first
from hpo.doctor.storage import check_storage
from hpo.doctor.verdict import judge
from hpo.errors import UsageError
from hpo.layout import absolute
from hpo.weights import cache_home
from launch.flags import add_slurm_flags, slurm_words
from launch.terminal import colour, command, say

_COLOURS = {"error": "31", "warning": "33", "ok": "32"}
_SICK = 4  # exit code: something is wrong


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    wait_s = _seconds(arguments.wait)
    findings = Findings()
    site = choose_site(arguments.site)
    os.environ.update(site.weights_environment())
    runs = absolute(arguments.runs_dir or os.environ.get("SLURMTUNE_RUNS") or expand_runs(site) or "runs")
    check_environment(findings)
    check_storage(runs, cache_home(), findings)
    with findings.on("slurm"):
        _examine_slurm(arguments, site, runs, wait_s, findings)
    _show(findings, arguments.json)
    return _SICK if findings.errors else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="doctor.py",
        description="Looks at this cluster and says what is wrong and what to do. "
        "Exit code 0: nothing is; 4: something is.",
        epilog="example: python launch/doctor.py --no-jobs --no-write",
    )
    parser.add_argument("--site", metavar="NAME", help="site file to try; default: as of submit.py")
    parser.add_argument("--no-jobs", action="store_true", help="submit nothing")
    parser.add_argument("--no-write", action="store_true", help="print a first site file instead of writing it")
    parser.add_argument("--wait", metavar="SECONDS", default="300", help="so long a job may wait for its start (300)")
    parser.add_argument("--runs-dir", metavar="DIR", help="where sweeps are to go, as of submit.py")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    add_slurm_flags(parser.add_argument_group("the job to try"))
    return parser


def _seconds(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--wait takes a number of seconds, got {text!r}.")
    return int(text)


def _examine_slurm(arguments: argparse.Namespace, site: Site, runs: Path, wait_s: int, findings: Findings) -> None:
    """SLURM's own answers, the two jobs, and a first site file from both."""
    asked = combine_requests(slurm_words(arguments), site)
    site.check(asked)
    partitions = read_partitions(asked.partition)
    partition = choose_for_gpus(asked.partition, partitions)
    answers = ask_site(partition.name)
    has = f"{partition.nodes} hosts with {partition.gpus} GPUs"
    findings.ok("slurm", f"SLURM answers: {len(partitions)} partitions, {partition.name} has {has}")
    asked = asked.merged(SlurmRequest(account=asked.account or choose_account(answers)))
    hosts: list[dict[str, Any]] = []
    before = len(findings.errors)
    with findings.on("slurm"):
        check_fits(asked, partition)
        request, _ = fill_in(asked, partition)
        judge_request(request, answers, partition.name, findings)
        if len(findings.errors) == before and not arguments.no_jobs:
            hosts = _try(request, site, runs, partition, wait_s, findings)
    if not site.path:
        _offer(propose(partition, partitions, answers, asked, hosts), arguments.no_write)


def _offer(text: str, print_it: bool) -> None:
    name = cluster_name()
    if print_it:
        say(f"a first site file for {name}:")
        sys.stderr.write(text)
        return
    path, default = write_first(name, text)
    say(f"there is a site file {name} already; it is left alone, take it by --site {name}" if path is None
        else f"wrote {path}{', and made it your default' if default else ''}")  # fmt: skip


def _try(
    request: SlurmRequest, site: Site, runs: Path, partition: Partition, wait_s: int, findings: Findings
) -> list[dict[str, Any]]:
    """A job on one host; when that went well, one on two. What the hosts of the last one said of themselves."""
    hosts: list[dict[str, Any]] = []
    for nodes in (1, 2):
        if nodes > partition.nodes or findings.errors:
            break
        with findings.on("one host" if nodes == 1 else "2 hosts"):
            say(f"a job of a minute on {nodes} host{'s' if nodes > 1 else ''} of {partition.name} ...")
            answer = ask_hosts(request, site, runs, nodes, wait_s)
            hosts = answer.hosts or hosts
            judge(answer, request, site, nodes, findings)
    return hosts


def _show(findings: Findings, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([finding.to_json() for finding in findings.found], indent=2) + "\n")
        return
    sys.stdout.write("".join(_line(finding) for finding in findings.found))


def _line(finding: Finding) -> str:
    return f"{finding.topic:<12}{colour(f'{finding.level:<8}', _COLOURS[finding.level])} {finding.text}\n"


if __name__ == "__main__":
    raise SystemExit(main())
