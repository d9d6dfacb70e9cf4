"""Submits a sweep and returns at once; or runs it here, in the foreground, with --cluster local.

python launch/submit.py --partition gpu                        # ./sweep.yaml if there is one, else the bundled demo
python launch/submit.py SWEEP.yaml --partition gpu --nodes 2 --gpus-per-node 2 --time 04:00:00
python launch/submit.py SWEEP.yaml --cluster local
python launch/submit.py SWEEP.yaml --partition gpu --wait      # and stays until it has ended
python launch/submit.py SWEEP.yaml --partition gpu --mode pool --nodes 8
python launch/submit.py --resume DIR                           # go on, after anything
python launch/submit.py --resume DIR --num-trials +20          # more trials
python launch/submit.py --add-workers 4 DIR
python launch/submit.py --stop DIR
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
from dataclasses import asdict, replace

from hpo.check.findings import Findings
from hpo.check.preflight import Preflight, raise_first
from hpo.cluster.completion import combine, comment_of, complete
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import choose_site, expand_runs
from hpo.cluster.terms import Terms, check_terms
from hpo.config import TERM_KEYS, SweepConfig, load_sweep
from hpo.errors import UsageError
from hpo.layout import SweepDirectory, absolute
from hpo.price.packing import pack
from hpo.search.plugins import rehearse
from hpo.staging import name_run, stage_sweep
from hpo.weights import is_offline
from launch import again
from launch.flags import add_slurm_flags, slurm_words
from launch.starting import count_local, print_scripts, print_submitted, run_here, script, wait
from launch.terminal import command, say

_DEMO = Path(__file__).resolve().parent / "demo" / "sweep.yaml"


@command
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    flags = SlurmRequest.from_words(slurm_words(arguments))
    terms = Terms.from_words({key: getattr(arguments, key) for key in TERM_KEYS})
    if arguments.wait and arguments.json:
        raise UsageError("--wait shows the sweep's table at its end, --json what was submitted; leave one of them out.")
    if arguments.resume:
        return again.resume(arguments, flags, terms)
    if arguments.add_workers:
        return again.add_workers(arguments, flags)
    if arguments.stop:
        return again.stop(arguments)
    return _begin(arguments, flags, terms)


def _begin(arguments: argparse.Namespace, flags: SlurmRequest, terms: Terms) -> int:
    """A new sweep."""
    site = choose_site(arguments.site)
    os.environ.update(site.weights_environment())
    runs = absolute(arguments.runs_dir or os.environ.get("SLURMTUNE_RUNS") or expand_runs(site) or "runs")
    path = find_sweep(arguments.sweep)
    config = load_sweep(path, overrides(arguments), runs)
    for note in rehearse(config):
        say(note)
    run = absolute(arguments.run_dir) if arguments.run_dir else name_run(runs, config.name)
    if arguments.cluster == "local":  # what the sweep file says of SLURM is for SLURM
        check_terms(terms, "local", None)
        with _checks(arguments, config, run, path) as checks:
            checks.judge(None)
        raise_first(checks.findings, say)
        config = pack(config, None, count_local(config), say)
        return run_here(stage_sweep(config, run, "local", asdict(flags), terms.to_json()), config)
    request, terms = combine(config.slurm, site, flags, terms)
    request, head = replace(request, comment=request.comment or comment_of(config, run)), None
    check_terms(terms, "slurm", request.gpus_per_node)
    with _checks(arguments, config, run, path) as checks, checks.findings.on("site"):
        if not arguments.stage_only:
            request, head = complete(request, terms, site, say)
        checks.judge(replace(request, nodes=1) if head else request)  # each job of a pool is of one host
    raise_first(checks.findings, say)
    if arguments.stage_only:
        directory = stage_sweep(config, run, "slurm", asdict(request), terms.to_json(), site.to_json())
        sys.stdout.write(f"{directory.root}\n")
        return 0
    config = pack(config, request, (request.cpus_per_task or 1, request.gpus_per_node or 0), say)
    if arguments.dry_run:
        print_scripts(SweepDirectory(run), request, head, config.name, site)
        return 0
    from hpo.cluster.submission import submit_sweep  # submitit takes a while

    directory, jobs = submit_sweep(config, run, request, head, terms, site)
    print_submitted(directory, jobs, request, head, arguments.json)
    return wait(directory, config.tune.num_trials) if arguments.wait else 0


def _checks(arguments: argparse.Namespace, config: SweepConfig, run: Path, path: Path) -> Preflight:
    on_slurm = arguments.cluster != "local"
    return Preflight(
        config,
        run,
        Findings(),
        on_slurm=on_slurm,
        remedy=f"{script('prefetch.py')} {path}",
        may_download=not is_offline(usual=on_slurm),
        mode="weights" if arguments.no_check or arguments.stage_only else "submit",
    )


def overrides(arguments: argparse.Namespace) -> list[str]:
    """What is put over the sweep file: --set, and the flags that stand for one of its keys."""
    given = [*arguments.set]
    if arguments.warm_start:
        directories = [str(absolute(path)) for path in arguments.warm_start]
        given.append(f"warm_start={json.dumps(directories)}")
    if arguments.deterministic is not None:
        given.append(f"deterministic={arguments.deterministic}")
    if arguments.num_trials is None:
        return given
    if arguments.num_trials.startswith("+"):
        raise UsageError(f"--num-trials {arguments.num_trials}: +N extends a sweep that is there, with --resume DIR.")
    return [*given, f"num_trials={again.parse_num_trials(arguments.num_trials, 0)}"]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="submit.py",
        description="Submits a sweep to SLURM, or runs it on this machine.",
        epilog="example: python launch/submit.py launch/demo/sweep.yaml --cluster local --set num_trials=4",
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="default: ./sweep.yaml, else the bundled demo")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm")
    where.add_argument("--site", metavar="NAME", help="site file; default: $SLURMTUNE_SITE, else your configuration's")
    add_slurm_flags(where)
    terms = parser.add_argument_group("attempts")
    terms.add_argument(
        "--mode",
        metavar="gang|pool",
        help="one job of all hosts (default), or a small head job and one job for each of --nodes workers, which join "
        "as SLURM starts them",
    )
    terms.add_argument("--max-attempts", metavar="N", help="end after so many attempts; default: as many as get on")
    terms.add_argument("--max-gpu-hours", metavar="H", help="end when all attempts together have used so many")
    terms.add_argument(
        "--max-replacements", metavar="N", help="pool: so many lost workers are replaced; default: one for each worker"
    )
    terms.add_argument("--head-partition", metavar="NAME", help="pool: of the head; default: the workers'")
    terms.add_argument("--head-time", metavar="HH:MM:SS", help="pool: of the head; default: the partition's limit")
    old = parser.add_argument_group("with a sweep that is there")
    old.add_argument("--resume", metavar="DIR", help="go on with the sweep in DIR, after anything")
    old.add_argument("--add-workers", metavar="N", help="submit.py --add-workers N DIR: so many more workers")
    old.add_argument("--stop", metavar="DIR", help="end it gracefully, wherever it runs; --resume goes on")
    what = parser.add_argument_group("what it does")
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="put over the sweep file, repeatable"
    )
    what.add_argument("--num-trials", metavar="N", help="of the sweep; +N with --resume: so many more")
    what.add_argument(
        "--warm-start", nargs="+", metavar="DIR", help="earlier sweeps: their values where comparable, else their best"
    )
    what.add_argument(
        "--deterministic",
        metavar="N",
        help="N trials at a time that wait for each other, so that the search goes the same way however fast they are",
    )
    what.add_argument("--no-check", action="store_true", help="skip what check.py looks at; sbatch itself still judges")
    what.add_argument("--dry-run", action="store_true", help="print the batch script; write and submit nothing")
    what.add_argument("--runs-dir", metavar="DIR", help="where sweeps go; default: $SLURMTUNE_RUNS, else ./runs")
    what.add_argument("--run-dir", metavar="DIR", help="exactly this directory, which must not exist")
    what.add_argument("--json", action="store_true", help="what was submitted, as JSON")
    what.add_argument(
        "--wait", action="store_true", help="stay until no job of the sweep is left: 0 when it has ended, 75 before"
    )
    what.add_argument("--stage-only", action="store_true", help="write the directory, print it, submit nothing")
    return parser


def find_sweep(given: str | None) -> Path:
    if given:
        return absolute(given)
    here = Path("sweep.yaml").absolute()
    path = here if here.exists() else _DEMO
    say(f"no sweep file named: taking {path}{'' if path == here else ', the bundled demo'}")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
