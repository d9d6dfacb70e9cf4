"""Submits a sweep and returns at once; or runs it here, in the foreground, with --cluster local.

python launch/submit.py --partition gpu                        # ./sweep.yaml if there is one, else the bundled demo
python launch/submit.py SWEEP.yaml --partition gpu --nodes 2 --gpus-per-node 2 --time 04:00:00
python launch/submit.py SWEEP.yaml --cluster local
python launch/submit.py --resume DIR
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
import shutil
from dataclasses import asdict
from typing import Any

from hpo.cluster.request import SlurmRequest, check_fits, choose_partition, fill_in, read_partitions
from hpo.config import SLURM_KEYS, SweepConfig, load_sweep
from hpo.errors import ClusterError, UsageError
from hpo.layout import SweepDirectory, absolute, open_sweep, read_json
from hpo.records import Journal, SweepState, read_events
from hpo.search.plugins import rehearse
from hpo.staging import name_run, stage_sweep
from launch.terminal import command, say

_DEMO = Path(__file__).resolve().parent / "demo" / "sweep.yaml"


@command
def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.resume:
        return _resume(arguments)
    runs = absolute(arguments.runs_dir or os.environ.get("SLURMTUNE_RUNS") or "runs")
    path = _find_sweep(arguments.sweep)
    config = load_sweep(path, [*arguments.set, *_warm_start(arguments.warm_start)], runs)
    for note in rehearse(config):
        say(note)
    run = absolute(arguments.run_dir) if arguments.run_dir else name_run(runs, config.name)
    flags = SlurmRequest.from_words({key: getattr(arguments, key) for key in SLURM_KEYS})
    if arguments.cluster == "local":
        return _run_here(stage_sweep(config, run, "local", asdict(flags)), config)
    request = SlurmRequest.from_words(config.slurm).merged(flags)
    if arguments.stage_only:
        sys.stdout.write(f"{stage_sweep(config, run, 'slurm', asdict(request)).root}\n")
        return 0
    request = _complete(request)
    if arguments.dry_run:
        from hpo.cluster.submission import render_script

        sys.stdout.write(render_script(request, SweepDirectory(run), config.name))
        return 0
    directory = stage_sweep(config, run, "slurm", asdict(request))
    try:
        return _submit(directory, request, config.name, arguments.json)
    except ClusterError:  # refused: nothing of it has run, and the next try makes its own
        shutil.rmtree(directory.root)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="submit.py",
        description="Submits a sweep to SLURM, or runs it on this machine.",
        epilog="example: python launch/submit.py launch/demo/sweep.yaml --cluster local --set num_trials=4",
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="default: ./sweep.yaml, else the bundled demo")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm")
    where.add_argument("-p", "--partition", help="default: the sweep file's, else the site's")
    where.add_argument("-A", "--account")
    where.add_argument("-q", "--qos")
    where.add_argument("-N", "--nodes", metavar="N", help="default: 1")
    where.add_argument("--gpus-per-node", "--gpus", metavar="N", help="default: 2, or what the partition's hosts have")
    where.add_argument("-c", "--cpus-per-task", metavar="N", help="CPUs a host; default: its share with the GPUs")
    where.add_argument("--mem", metavar="SIZE", help="memory a host; default: its share with the GPUs")
    where.add_argument("-t", "--time", metavar="HH:MM:SS", help="walltime; default: 1 hour, or the partition's limit")
    where.add_argument("-C", "--constraint")
    what = parser.add_argument_group("what it does")
    what.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="put over the sweep file, repeatable"
    )
    what.add_argument(
        "--warm-start", nargs="+", metavar="DIR", help="earlier sweeps: their values where comparable, else their best"
    )
    what.add_argument("--resume", metavar="DIR", help="go on with the sweep in DIR")
    what.add_argument("--dry-run", action="store_true", help="print the batch script; write and submit nothing")
    what.add_argument("--runs-dir", metavar="DIR", help="where sweeps go; default: $SLURMTUNE_RUNS, else ./runs")
    what.add_argument("--run-dir", metavar="DIR", help="exactly this directory, which must not exist")
    what.add_argument("--json", action="store_true", help="what was submitted, as JSON")
    what.add_argument("--stage-only", action="store_true", help="write the directory, print it, submit nothing")
    return parser


def _warm_start(directories: list[str] | None) -> list[str]:
    """The flag as the sweep file's key."""
    return [f"warm_start={json.dumps([str(absolute(path)) for path in directories])}"] if directories else []


def _find_sweep(given: str | None) -> Path:
    if given:
        return absolute(given)
    here = Path("sweep.yaml").absolute()
    path = here if here.exists() else _DEMO
    say(f"no sweep file named: taking {path}{'' if path == here else ', the bundled demo'}")
    return path


def _complete(request: SlurmRequest) -> SlurmRequest:
    """The request with defaults for what was not said, and said aloud."""
    partition = choose_partition(request.partition, read_partitions())
    check_fits(request, partition)
    filled, notes = fill_in(request, partition)
    if request.partition is None:
        notes.insert(0, f"--partition {partition.name}")
    if notes:
        say(f"by default: {' '.join(notes)}")
    return filled


def _submit(directory: SweepDirectory, request: SlurmRequest, name: str, as_json: bool) -> int:
    from hpo.cluster.submission import submit_to_slurm

    job = submit_to_slurm(request, directory, name)
    if as_json:
        sys.stdout.write(json.dumps({"job": job, "directory": str(directory.root), "request": asdict(request)}) + "\n")
    else:
        sys.stdout.write(
            f"job        {job}\ndirectory  {directory.root}\nnext       {_script('results.py')} {directory.root}\n"
        )
    return 0


def _script(name: str) -> str:
    return f"python {Path(__file__).resolve().parent / name}"


def _run_here(directory: SweepDirectory, config: SweepConfig) -> int:
    from hpo.cluster.submission import start_locally
    from launch.follow import follow

    say(f"directory {directory.root}")
    return follow(start_locally(directory), directory, config.tune.num_trials)


def _resume(arguments: argparse.Namespace) -> int:
    """Another attempt on a sweep, after anything."""
    if arguments.sweep or arguments.set or arguments.warm_start:
        raise UsageError("--resume goes on with the sweep as it was submitted; leave out the sweep file and --set.")
    directory = open_sweep(arguments.resume)
    resolved: dict[str, Any] = read_json(directory.resolved)
    config = SweepConfig.from_json(resolved)
    Journal(directory.journal).close()  # refuses a damaged journal and one that another attempt is writing
    if SweepState(read_events(directory.journal)).ended:
        say(f"this sweep has ended; {_script('results.py')} {directory.root} shows it")
        return 0
    cluster = arguments.cluster or resolved["cluster"]
    if cluster == "local":
        return _run_here(directory, config)
    flags = SlurmRequest.from_words({key: getattr(arguments, key) for key in SLURM_KEYS})
    request = _complete(SlurmRequest.from_words(resolved["request"]).merged(flags))
    if arguments.dry_run:
        from hpo.cluster.submission import render_script

        sys.stdout.write(render_script(request, directory, config.name))
        return 0
    return _submit(directory, request, config.name, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
