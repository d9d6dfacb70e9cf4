"""What submit.py does to a sweep that is there: --resume goes on with it or extends it, --add-workers, --stop."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.cluster.completion import complete
from hpo.cluster.jobs import cancel_jobs, queue_states, read_jobs
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, choose_site, read_site
from hpo.cluster.terms import Terms, check_terms, read_terms, spent
from hpo.config import SweepConfig
from hpo.errors import ClusterError, JournalHeldError, UsageError
from hpo.fingerprint import check_unchanged, code_versions, describe_change, last_code
from hpo.layout import SweepDirectory, open_sweep, read_json, write_json
from hpo.ownership import open_own_sweep
from hpo.records import Journal, SweepState, read_events
from hpo.results.read import progress_line
from hpo.usage import Usage
from launch.starting import print_jobs, print_scripts, run_here, script, submit, wait
from launch.terminal import say

_STOP_DEADLINE_S = 120
_LOOK_S, _ASK_S = 0.5, 3.0  # between two looks at a sweep that is to stop: at its journal, and at SLURM's queue
_EPOCHS = ("optimization.max_epochs", "optim.max_epochs")


def resume(arguments: argparse.Namespace, flags: SlurmRequest, terms: Terms) -> int:
    """Another attempt on a sweep, after anything; with --num-trials for more trials."""
    _refuse_changes(arguments)
    directory = open_own_sweep(arguments.resume)
    resolved: dict[str, Any] = read_json(directory.resolved)
    Journal(directory.journal).close()  # refuses a damaged journal and one that another attempt is writing
    events = read_events(directory.journal)
    state = SweepState(events)
    terms = replace(read_terms(resolved).merged(terms), time_limit=None)  # who goes on wants more time
    changed = _extend({**resolved, "terms": terms.to_json()}, arguments.num_trials, state)
    config = SweepConfig.from_json(changed)
    if events:
        check_unchanged(state.header, config)
    if _is_over(state, config):
        say(f"this sweep has ended; {script('results.py')} {directory.root} shows it")
        return 0
    if change := describe_change(last_code(events), code_versions()):
        say(f"the code changed since the attempt before ({change}); trials of both may not compare exactly")
    if why := spent(Usage(events), terms):
        raise UsageError(f"{directory.root}: {why} (--max-attempts N, --max-gpu-hours H).")
    if (arguments.cluster or resolved["cluster"]) == "local":
        check_terms(terms, "local", None)
        _settle(directory, changed)
        return run_here(directory, config)
    site = site_again(arguments, resolved)
    request, head = complete(_asked_before(resolved).merged(flags), terms, site, say)
    if arguments.dry_run:
        print_scripts(directory, request, head, config.name, site)
        return 0
    _settle(directory, {**changed, "request": vars(request), "site": site.to_json()})
    if head:
        request = _without_waiting(directory, request)
    code = submit(directory, request, head, config.name, arguments.json)
    return wait(directory, config.tune.num_trials) if arguments.wait else code


def _asked_before(resolved: dict[str, Any]) -> SlurmRequest:
    return SlurmRequest.from_environment().merged(SlurmRequest.from_words(resolved["request"]).again())


def site_again(arguments: argparse.Namespace, resolved: dict[str, Any]) -> Site:
    """The site that the sweep was submitted for, as its file is now; another one with --site."""
    before = Site.from_json(resolved.get("site"))
    if arguments.site:
        return choose_site(arguments.site)
    return read_site(Path(before.path)) if before.path and Path(before.path).is_file() else before


def _refuse_changes(arguments: argparse.Namespace) -> None:
    if any(value.partition("=")[0] in _EPOCHS for value in arguments.set):
        raise UsageError(
            "a sweep cannot be given other epochs: its rungs and learning-rate schedules belong to those it has, and "
            "trials of both would not compare; submit a new one with the best of this one in points_to_evaluate."
        )
    if arguments.sweep or arguments.set or arguments.warm_start or arguments.deterministic:
        raise UsageError(
            "--resume goes on with the sweep as it was submitted; leave out the sweep file and --set "
            "(--num-trials +N asks for more trials)."
        )


def _extend(resolved: dict[str, Any], asked: str | None, state: SweepState) -> dict[str, Any]:
    """resolved.json with the number of trials that `asked` ('+20' or '40') stands for."""
    if asked is None:
        return resolved
    number = parse_num_trials(asked, int(resolved["num_trials"]))
    if number < len(state.trials):
        raise UsageError(f"--num-trials {asked}: the sweep has {len(state.trials)} trials already; ask for more.")
    if state.ending and number > len(state.trials):
        raise UsageError(
            f"--num-trials {asked}: the sweep was ended by its rule ({state.ending['reason']}), which holds still; "
            "submit a new one without it."
        )
    return {**resolved, "num_trials": number, "tune": {**resolved["tune"], "num_trials": number}}


def parse_num_trials(text: str, before: int) -> int:
    """'40', or '+20' of `before`."""
    match = re.fullmatch(r"(\+?)(\d+)", text)
    number = int(match.group(2)) if match else 0
    if not match or number < 1:
        raise UsageError(f"--num-trials must be a whole number of at least 1, or +N with --resume, got {text!r}.")
    return number + before if match.group(1) else number


def _is_over(state: SweepState, config: SweepConfig) -> bool:
    """Whether nothing is left to do; a sweep that a limit ended has trials that are not."""
    complete = state.ending is not None or len(state.trials) >= config.tune.num_trials
    return bool(state.ended) and complete and not state.unfinished


def _settle(directory: SweepDirectory, resolved: dict[str, Any]) -> None:
    """What was asked for is from now on what the sweep is."""
    directory.stop_request.unlink(missing_ok=True)
    write_json(directory.resolved, resolved)


def _without_waiting(directory: SweepDirectory, request: SlurmRequest) -> SlurmRequest:
    """So many workers fewer as are still in the queue from before."""
    there = queue_states(record.job for record in read_jobs(directory, "worker")) or {}
    if there:
        say(f"{len(there)} workers are in the queue already: {' '.join(there)}")
    return replace(request, nodes=max(0, (request.nodes or 1) - len(there)))


def add_workers(arguments: argparse.Namespace, flags: SlurmRequest) -> int:
    """More workers for a sweep that is at work on SLURM, of whatever mode: each is a job that joins when it starts."""
    if not re.fullmatch(r"[1-9]\d*", arguments.add_workers):
        raise UsageError(f"--add-workers must be a whole number of at least 1, got {arguments.add_workers!r}.")
    if not arguments.sweep:
        raise UsageError("--add-workers N wants the sweep's directory: submit.py --add-workers N DIR.")
    directory = open_own_sweep(arguments.sweep)
    resolved = read_json(directory.resolved)
    wish = _asked_before(resolved).merged(flags)
    site = site_again(arguments, resolved)
    request, _ = complete(replace(wish, nodes=1), Terms(), site, say)
    if not queue_states(record.job for record in read_jobs(directory, "attempt")):
        raise ClusterError(f"no attempt on {directory.root} is in the queue; go on with it first, by --resume.")
    if arguments.dry_run:
        print_scripts(directory, request, None, resolved["name"], site, "worker")
        return 0
    from hpo.cluster.submission import submit_to_slurm

    jobs: list[str] = []
    try:
        for _ in range(int(arguments.add_workers)):
            jobs.append(submit_to_slurm(request, directory, resolved["name"], "worker", site=site))
    except ClusterError as error:
        before = f" Before it {' '.join(jobs)} were submitted, and stay." if jobs else ""
        raise ClusterError(f"{error}{before}") from None
    about = {"workers": jobs, "directory": str(directory.root), "request": vars(request)}
    print_jobs(directory, about, arguments.json)
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Ends a sweep gracefully, wherever it runs: its supervisor looks for the file that is written here."""
    directory = open_sweep(arguments.stop)
    jobs = [record.job for record in read_jobs(directory)]
    if not _at_work(directory) and not queue_states(jobs):
        say(f"nothing is at work on {directory.root}")
        return 0
    write_json(directory.stop_request, {"t": time.time()})
    cancel_jobs(jobs, pending_only=True)
    say("asked it to stop; waiting for its end")
    end = time.monotonic() + _STOP_DEADLINE_S
    while _at_work(directory) or queue_states(jobs):
        if time.monotonic() > end:
            left = " ".join(queue_states(jobs) or {})
            raise ClusterError(f"it has not ended in {_STOP_DEADLINE_S} s; end it by force: scancel {left or 'JOB'}.")
        time.sleep(_ASK_S if jobs else _LOOK_S)
    state = SweepState(read_events(directory.journal))
    say(f"stopped: {progress_line(state, int(read_json(directory.resolved)['num_trials']))}")
    if not state.ended:
        say(f"go on with: {script('submit.py')} --resume {directory.root}")
    return 0


def _at_work(directory: SweepDirectory) -> bool:
    try:
        Journal(directory.journal).close()
    except JournalHeldError:
        return True
    return False
