"""Looks for what would go wrong with a sweep, before it waits in a queue: sweep file, data, directory, site, models.

python launch/check.py SWEEP.yaml --partition gpu --nodes 2        # the flags are submit.py's
python launch/check.py SWEEP.yaml --cluster local
python launch/check.py SWEEP.yaml --deep                           # reads every byte of the data
python launch/check.py SWEEP.yaml --json
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
from dataclasses import replace

from hpo.check.findings import TOPICS, Finding, Findings
from hpo.check.preflight import check_sweep
from hpo.cluster.request import SlurmRequest
from hpo.cluster.terms import Terms
from hpo.config import SLURM_KEYS, TERM_KEYS, SweepConfig, load_sweep
from hpo.errors import UsageError
from hpo.layout import absolute
from hpo.staging import name_run
from hpo.weights import check_weights, is_offline
from launch import submit
from launch.starting import complete, script
from launch.terminal import colour, command

_COLOURS = {"error": "31", "warning": "33", "ok": "32"}


@command
def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    for flag in ("resume", "add_workers", "stop", "dry_run", "stage_only", "no_check"):
        if getattr(arguments, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} is submit.py's alone; leave it out, check.py submits nothing."
            )
    runs = absolute(arguments.runs_dir or os.environ.get("SLURMTUNE_RUNS") or "runs")
    path = submit._find_sweep(arguments.sweep)
    config = load_sweep(path, submit._overrides(arguments), runs)
    run = absolute(arguments.run_dir) if arguments.run_dir else name_run(runs, config.name)
    on_slurm, request, findings = arguments.cluster != "local", None, Findings()
    if on_slurm:
        with findings.on("site"):
            request = _request(arguments, config)
    with findings.on("models"):
        remedy, downloads = f"{script('prefetch.py')} {path}", not is_offline(usual=on_slurm)
        check_weights(config.space, remedy, may_download=downloads)
    check_sweep(config, run, request, findings, on_slurm=on_slurm, deep=arguments.deep)
    _show(findings, arguments.json)
    return findings.exit_code


def _request(arguments: argparse.Namespace, config: SweepConfig) -> SlurmRequest:
    """What submit.py would ask SLURM for."""
    flags = SlurmRequest.from_words({key: getattr(arguments, key) for key in SLURM_KEYS})
    terms = Terms.from_words({key: getattr(arguments, key) for key in TERM_KEYS})
    wanted = SlurmRequest.from_words(config.slurm).merged(flags), Terms.from_words(config.slurm).merged(terms)
    request, head = complete(*wanted)
    return replace(request, nodes=1) if head else request  # each job of a pool is of one host


def _parser() -> argparse.ArgumentParser:
    """submit.py's flags and a few more."""
    parser = argparse.ArgumentParser(
        prog="check.py",
        usage="check.py [SWEEP.yaml] [--deep] [--json] [flags of submit.py]",
        description="Looks for what would go wrong with a sweep; submits and writes nothing. Exit code: 0 nothing "
        "speaks against it (warnings may), 2 command line or sweep file, 3 data, 4 SLURM, 5 models or weights.",
        epilog="example: python launch/check.py launch/demo/sweep.yaml --cluster local",
        parents=[submit._parser()],
        conflict_handler="resolve",
    )
    parser.add_argument("--deep", action="store_true", help="read every byte of the data, as prepare.py --check does")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    return parser


def _show(findings: Findings, as_json: bool) -> None:
    if as_json:
        values = {"exit_code": findings.exit_code, "findings": [finding.to_json() for finding in findings.found]}
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    order = sorted(findings.found, key=lambda finding: TOPICS.index(finding.topic))
    sys.stdout.write("".join(_line(finding) for finding in order))


def _line(finding: Finding) -> str:
    return f"{finding.topic:<10} {colour(f'{finding.level:<8}', _COLOURS[finding.level])} {finding.text}\n"


if __name__ == "__main__":
    raise SystemExit(main())
