"""The driver of an attempt: joins the Ray cluster, runs the search, writes what people read afterwards.

Its arguments are DIR ATTEMPT [fenced], see hpo.cluster.driver_main, which starts it.

fenced: an earlier attempt on a host that SLURM has given up was told to end, and may hold the journal for a while.
Exit codes: 0 the sweep is done; 75 stopped on request, to be resumed; else see hpo.errors.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hpo.cluster.allocation import describe_signal
from hpo.cluster.driver_main import STOP_SIGNALS
from hpo.cluster.housekeeping import CheckpointBudget
from hpo.cluster.nodes import NodeWatch, drain_if_idle
from hpo.cluster.pool import Pool
from hpo.cluster.quorum import Quorum
from hpo.cluster.rendezvous import Rendezvous
from hpo.cluster.share import Share
from hpo.cluster.terms import Terms, fruitless, read_terms, spent
from hpo.cluster.watch import Watch
from hpo.cluster.winner import save_winner
from hpo.config import SweepConfig
from hpo.errors import STOPPED, ClusterError, JournalHeldError, SlurmtuneError, SweepError, UsageError
from hpo.fingerprint import check_unchanged, code_versions, describe_change, last_code
from hpo.layout import SweepDirectory, open_sweep, read_json
from hpo.microbatches import MicroBatches
from hpo.records import Event, Journal, read_events
from hpo.results.insight import Insight
from hpo.results.read import Results, current_best_line
from hpo.results.report import write_report
from hpo.search import plugins
from hpo.search.sweep import Sweep
from hpo.search.trialfiles import TrialFiles
from hpo.usage import Usage, origin

_JOIN_DEADLINE_S = 120
_GLANCE_S = 5.0  # submit.py --stop and --resume hold the journal for a moment, to see whether anybody does
_FENCED_S = 100.0  # NFS frees the locks of a host that it hears no more of after 90 s


def run(argv: list[str]) -> int:
    """DIR ATTEMPT [fenced]; returns the exit code. The signals of driver_main are blocked in every thread."""
    root, attempt, *more = argv
    try:
        directory = open_sweep(root)
        return drive(directory, attempt, _FENCED_S if "fenced" in more else _GLANCE_S)
    except SlurmtuneError as error:
        say(f"error: {error}")
        return error.exit_code


def drive(directory: SweepDirectory, attempt: str, patience_s: float) -> int:
    """One attempt from joining the cluster to the report; returns the exit code. `patience_s`: for the journal."""
    rendezvous = Rendezvous(directory.attempt(attempt))
    resolved = read_json(directory.resolved)
    config = SweepConfig.from_json(resolved)
    journal = _open_journal(directory, patience_s)
    code = _check_unchanged(config, journal)
    sweep = plugins.open_sweep(config, journal, attempt, directory)
    keys = {dimension.key: dimension.default for dimension in config.space.dimensions}
    files = TrialFiles(directory, dict(config.space.constants), keys)
    fitting = MicroBatches(config, directory.micro_batches, journal.events)
    sweep.listener = _Narrator(sweep, directory, files, fitting)
    close = Ending(functools.partial(_close, sweep, directory, files))
    leave = functools.partial(_leave, sweep, close)
    threading.Thread(target=_leave_on_request, args=(rendezvous, leave), daemon=True).start()
    head = _await_head(rendezvous)
    terms = read_terms(resolved)
    if why := _refusal(journal, terms, head["job"], attempt):
        sweep.note("attempt_refused", reason=why)
        say(f"no further attempt: {why}")
        return STOPPED
    sweep.start_attempt(job=head["job"], host=socket.gethostname(), nodes=head["nodes"], mode=head["mode"], code=code)
    nodes = NodeWatch(rendezvous, sweep.note)
    share = Share(config)
    pool: Pool | Quorum = Quorum(lambda: share.nodes, rendezvous)
    if terms.pool:
        pool = Pool(directory, terms, lambda: sweep.wanted_places, share.places, drain_if_idle, sweep.note, say)
    watch = Watch(nodes, terms, journal.events, sweep.note, leave, say, pool)
    try:
        reason = _search(sweep, directory, rendezvous, head, watch, share)
    except Exception as error:
        close(str(error) if isinstance(error, SlurmtuneError) else f"{type(error).__name__}: {error}"[:500])
        raise
    close(reason)
    return 0 if sweep.done else STOPPED


def _open_journal(directory: SweepDirectory, patience_s: float) -> Journal:
    end = time.monotonic() + patience_s
    while True:
        try:
            return Journal(directory.journal)
        except JournalHeldError:
            if time.monotonic() > end:
                raise
        time.sleep(0.5)


def _check_unchanged(config: SweepConfig, journal: Journal) -> dict[str, str]:
    """Refuses another search and other data than the sweep began with; says what is new of the code, and returns it."""
    if journal.events:
        check_unchanged(journal.events[0], config)
    code = code_versions()
    if change := describe_change(last_code(journal.events), code):
        say(f"the code changed since the attempt before ({change}); trials of both may not compare exactly")
    return code


def _refusal(journal: Journal, terms: Terms, job: str, attempt: str) -> str:
    """Why this attempt should not be: SLURM queues a preempted job again without asking us."""
    usage = Usage(journal.events)
    return spent(usage, terms) or fruitless(usage, origin(job, attempt))


class Ending:
    """Calls `close(reason, over)` once, for whoever comes first: the search, a request, a limit. The others wait until
    that is done."""

    def __init__(self, close: Callable[[str, bool], None]) -> None:
        self._close, self._closed, self._lock = close, False, threading.Lock()

    def __call__(self, reason: str, over: bool = False) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close(reason, over)


def _close(sweep: Sweep, directory: SweepDirectory, files: TrialFiles, reason: str, over: bool) -> None:
    """Ends the attempt in the journal, with `over` the sweep, then writes what follows from it, as far as that can be
    written."""
    sweep.end_attempt(reason, over)
    say(reason)
    files.close()
    for write in (
        lambda: save_winner(directory, sweep.state, sweep.config),
        lambda: write_report(directory, draw=_draw),
        lambda: _write_study(directory, sweep.config),
    ):
        try:
            write()
        except (SlurmtuneError, OSError) as error:  # a full disk, or a report.html that a person wrote
            say(f"error: {error}")


def _draw(results: Results) -> Insight:
    """The report's plots; what goes wrong in a drawing costs the drawing, not the report."""
    try:
        from hpo.search.figures import draw_insight  # a second of import, which no attempt waits for

        return draw_insight(results)
    except Exception as error:  # a library's bug
        say(f"the report is made without plots of the space ({type(error).__name__}: {error})")
        return Insight(f"The plots of the space could not be drawn ({type(error).__name__}: {error}).")


def _write_study(directory: SweepDirectory, config: SweepConfig) -> None:
    from hpo.search.optuna_form import write_study  # half a second of import, which no attempt waits for

    write_study(directory.optuna_journal, config.name, config.space, read_events(directory.journal))


def _leave_on_request(rendezvous: Rendezvous, leave: Callable[[str, bool], None]) -> None:
    """Waits for SIGTERM or SIGINT and leaves at once: all that counts is in the journal and in the checkpoints.

    A thread, and not a signal handler: Python runs handlers in the main thread, which may be waiting inside Ray for a
    head that the same signal has just ended.
    """
    signum = signal.sigwait(STOP_SIGNALS)
    try:
        asked = rendezvous.read("asked") or {"reason": describe_signal(signum), "next": ""}
        leave(f"stopped on request ({asked['reason']})" + (f"; {asked['next']}" if asked["next"] else ""), False)
    finally:
        os._exit(STOPPED)


def _leave(sweep: Sweep, close: Ending, reason: str, over: bool) -> None:
    """Ends the attempt here and now, with `over` the sweep, from another thread than the search's. A sweep that has
    ended meanwhile has not been stopped."""
    try:
        close(reason, over)
    finally:
        ended = 0 if sweep.state.incumbent() else SweepError.exit_code
        os._exit(ended if sweep.state.ended else STOPPED)


def _search(
    sweep: Sweep, directory: SweepDirectory, rendezvous: Rendezvous, head: dict[str, Any], watch: Watch, share: Share
) -> str:
    """Runs the trials; returns in words why it ended."""
    _join_head(head, watch)
    from hpo.cluster.trainable import make_trainable  # Ray Tune is a second of import, in which other hosts join
    from hpo.search.engine import TrialResources, hopeless, run_search

    _await_hosts(head, rendezvous, watch)
    cpus, gpus = share.divide(head if head["mode"] == "gang" else watch.first_worker())
    if share.nodes > (has := 1 if head["mode"] == "pool" else head["nodes"]):
        raise UsageError(
            f"a trial is to be spread over {share.nodes} nodes that stay together, and here {has} "
            f"{'do' if has > 1 else 'does'}; ask for more with --nodes in one job (no pool, not --cluster local)."
        )
    folder, resources = rendezvous.folder / "ray", TrialResources(cpus, gpus, share.nodes)
    if not sweep.done:
        run_search(sweep, make_trainable(directory), resources, folder, directory.fault)
    watch.stop()
    if cause := sweep.blocked:
        return f"{cause}; make room, then go on with submit.py --resume {directory.root}"
    if cause := hopeless(sweep):
        raise SweepError(f"one trial after the other failed, so the sweep was stopped: {cause}")
    if sweep.done and not sweep.state.incumbent():
        raise SweepError(f"no trial gave a {sweep.config.metric}; `results.py {directory.root}` says why each ended.")
    if sweep.done and sweep.state.ending:
        return str(sweep.state.ending["reason"])
    return "all trials have ended" if sweep.done else "Ray ended the run"


def _await_head(rendezvous: Rendezvous) -> dict[str, Any]:
    """head.json, for which the imports of this process left no time to be late."""
    import ray  # noqa: F401  seconds of import, while the head starts

    end = time.monotonic() + _JOIN_DEADLINE_S
    while time.monotonic() < end:
        if head := rendezvous.read("head"):
            return head
        time.sleep(0.05)
    raise ClusterError(f"Ray's head did not come up in {_JOIN_DEADLINE_S} s; see {rendezvous.folder / 'head.log'}.")


def _join_head(head: dict[str, Any], watch: Watch) -> None:
    import ray

    ray.init(address=head["gcs"], log_to_driver=False, logging_level=logging.ERROR, _node_ip_address=head["ip"])
    watch.start()


def _await_hosts(head: dict[str, Any], rendezvous: Rendezvous, watch: Watch) -> None:
    """Waits until every host of a gang has joined, or starts with those that came when time is up. Of a pool it waits
    for the first worker, as long as SLURM takes."""
    want = 1 if head["mode"] == "pool" else head["nodes"]
    end = time.monotonic() + (math.inf if head["mode"] == "pool" else _JOIN_DEADLINE_S)
    while len(hosts := watch.hosts()) < want:
        if time.monotonic() > end:
            came = f"{len(hosts)} of {want} hosts ({', '.join(hosts)})"
            say(f"only {came} joined Ray in {_JOIN_DEADLINE_S} s; going on with them")
            break
        time.sleep(0.1)
    seconds = round(time.time() - head["started"], 2)
    rendezvous.announce("ready", hosts=hosts, seconds=seconds)
    say(f"Ray is ready on {len(hosts)} of {max(want, len(hosts))} hosts after {seconds} s")  # more: --add-workers


class _Narrator:
    """Passes each event on to the trials' files, and says in the log what a person would want to know."""

    def __init__(self, sweep: Sweep, directory: SweepDirectory, files: TrialFiles, fitting: MicroBatches) -> None:
        self._sweep, self._files, self._fitting = sweep, files, fitting
        self._best: str | None = None
        budget = sweep.config.tune.checkpoint_budget_gb
        self._budget = CheckpointBudget(directory, budget, say) if budget else None

    def __call__(self, event: Event) -> None:
        self._files.write(event, self._sweep.state)
        self._fitting.watch(event)
        if self._budget:
            self._budget.watch(event, self._sweep.state)
        if event["type"] == "failed" and event["retry"]:
            say(f"trial {event['trial']} {event['kind']}: {event['cause']}; it will run again")
        elif event["type"] == "finished":
            say(f"trial {event['trial']} {event['state']}: {event['reason']}")
        elif event["type"] == "reported" and self._sweep.state.incumbent():
            line = current_best_line(self._sweep.state)
            if line != self._best:
                self._best = line
                say(line)


def say(message: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {message}\n")
    sys.stdout.flush()
