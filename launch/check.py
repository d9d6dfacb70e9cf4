"""Looks for what would go wrong with a sweep, before it waits in a queue: sweep file, data, directory, site, models.

python launch/check.py SWEEP.yaml --partition gpu --nodes 2        # the flags are submit.py's
python launch/check.py SWEEP.yaml --cluster local
python launch/check.py SWEEP.yaml --deep                           # reads every byte of the data
python launch/check.py SWEEP.yaml --cluster local --price          # what it will cost, measured on this machine
python launch/check.py SWEEP.yaml --partition gpu --probe --by 2026-11-25T08:00   # measured in a short job
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import json
import os
import time
from dataclasses import replace

from hpo.check.findings import TOPICS, Finding, Findings
from hpo.check.preflight import Preflight
from hpo.cluster.completion import combine, complete
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, choose_site, expand_runs
from hpo.cluster.terms import Terms
from hpo.cluster.words import check_whole
from hpo.config import TERM_KEYS, SweepConfig, load_sweep
from hpo.errors import UsageError
from hpo.layout import absolute
from hpo.price.page import price_json, price_lines
from hpo.price.quote import Quote, find_place, parse_by, quote_sweep
from hpo.staging import name_run
from hpo.weights import is_offline
from launch import submit
from launch.flags import slurm_words
from launch.starting import script
from launch.terminal import colour, command, say

_COLOURS = {"error": "31", "warning": "33", "ok": "32"}


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    for flag in ("resume", "add_workers", "stop", "dry_run", "stage_only", "no_check"):
        if getattr(arguments, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} is submit.py's alone; leave it out, check.py submits nothing."
            )
    site = choose_site(arguments.site)
    os.environ.update(site.weights_environment())
    runs = absolute(arguments.runs_dir or os.environ.get("SLURMTUNE_RUNS") or expand_runs(site) or "runs")
    path = submit.find_sweep(arguments.sweep)
    config = load_sweep(path, submit.overrides(arguments), runs)
    run = absolute(arguments.run_dir) if arguments.run_dir else name_run(runs, config.name)
    on_slurm, findings = arguments.cluster != "local", Findings()
    request = None
    with Preflight(
        config,
        run,
        findings,
        on_slurm=on_slurm,
        remedy=f"{script('prefetch.py')} {path}",
        may_download=not is_offline(usual=on_slurm),
        mode="deep" if arguments.deep else "all",
    ) as checks:
        pool = False
        if on_slurm:
            with findings.on("site"):
                request, pool = _request(arguments, config, site)
        checks.judge(replace(request, nodes=1) if request and pool else request)  # each job of a pool is of one host
    quote = None
    if not findings.errors and (arguments.price or arguments.probe or arguments.by):
        quote = _quote(arguments, config, request, runs)
    _show(findings, quote, arguments.json)
    return findings.exit_code


def _request(arguments: argparse.Namespace, config: SweepConfig, site: Site) -> tuple[SlurmRequest, bool]:
    """What submit.py would ask SLURM for, and whether as a pool."""
    flags = SlurmRequest.from_words(slurm_words(arguments))
    terms = Terms.from_words({key: getattr(arguments, key) for key in TERM_KEYS})
    request, head = complete(*combine(config.slurm, site, flags, terms), site, say)
    return request, head is not None


def _quote(arguments: argparse.Namespace, config: SweepConfig, request: SlurmRequest | None, runs: Path) -> Quote:
    """Raises: see hpo.price.quote.quote_sweep; UsageError also where --probe has no SLURM to go to."""
    if arguments.probe and request is None:
        raise UsageError("--probe measures in a SLURM job; without one --price measures on this machine.")
    now = time.time()
    by = parse_by(arguments.by, now) if arguments.by else None
    if request is None:
        from hpo.cluster.submission import count_local_gpus

        cpus, gpus = len(os.sched_getaffinity(0)), count_local_gpus()
    else:
        cpus, gpus = request.cpus_per_task or 1, request.gpus_per_node or 0
    place = find_place(config, request, cpus, gpus)
    probe = runs / f".probe-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}" if arguments.probe else None
    most = check_whole("most_nodes", arguments.most_nodes, 1) if request else 1
    return quote_sweep(config, place, (cpus, gpus), probe=probe, by=by, most=most, say=say)


def build_parser() -> argparse.ArgumentParser:
    """submit.py's flags and a few more."""
    parser = argparse.ArgumentParser(
        prog="check.py",
        usage="check.py [SWEEP.yaml] [--deep] [--json] [flags of submit.py]",
        description="Looks for what would go wrong with a sweep; submits and writes nothing. Exit code: 0 nothing "
        "speaks against it (warnings may), 2 command line or sweep file, 3 data, 4 SLURM, 5 models or weights.",
        epilog="example: python launch/check.py launch/demo/sweep.yaml --cluster local",
        parents=[submit.build_parser()],
        conflict_handler="resolve",
    )
    parser.add_argument("--deep", action="store_true", help="read every byte of the data, as prepare.py --check does")
    parser.add_argument("--json", action="store_true", help="the findings, and the price, as JSON")
    price = parser.add_argument_group("what it will cost")
    price.add_argument(
        "--price", action="store_true", help="measure what is not known yet, here, and simulate the sweep"
    )
    price.add_argument("--probe", action="store_true", help="measure in a short SLURM job on one GPU of the partition")
    price.add_argument("--by", metavar="WHEN", help="find the number of hosts: 2026-11-25T08:00, or 6:00:00 from now")
    price.add_argument("--most-nodes", metavar="N", default=16, help="for --by; default: 16")
    return parser


def _show(findings: Findings, quote: Quote | None, as_json: bool) -> None:
    if as_json:
        values = {"exit_code": findings.exit_code, "findings": [finding.to_json() for finding in findings.found]}
        values |= {"price": price_json(quote)} if quote else {}
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    order = sorted(findings.found, key=lambda finding: TOPICS.index(finding.topic))
    sys.stdout.write("".join(_line(finding) for finding in order))
    sys.stdout.write("".join(f"{line}\n" for line in price_lines(quote)) if quote else "")


def _line(finding: Finding) -> str:
    return f"{finding.topic:<10} {colour(f'{finding.level:<8}', _COLOURS[finding.level])} {finding.text}\n"


if __name__ == "__main__":
    raise SystemExit(main())
