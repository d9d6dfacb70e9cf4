"""One trial without Ray, journalled like any sweep, so that results, report and resuming are the same.

    python -m hpo.predictor.single DIR      (started by hpo.predictor.handle)

Exit codes as hpo.cluster.driver's: 0 done, 75 stopped on request, else see hpo.errors.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from hpo.cluster.terms import read_terms
from hpo.cluster.winner import save_winner
from hpo.config import SweepConfig
from hpo.errors import STOPPED, SlurmtuneError
from hpo.failures import classify, describe
from hpo.layout import SweepDirectory, open_sweep, read_json
from hpo.records import Journal, Trial
from hpo.results.report import write_report
from hpo.search.sweep import Sweep
from hpo.search.trialfiles import TrialFiles


class _StopError(Exception):
    """Somebody asked us to stop."""


class _Requests:
    """SIGTERM, SIGINT and the end of the time: at once inside an epoch, else when the step in hand is written down."""

    def __init__(self) -> None:
        self.asked = self.interruptible = self.late = False
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(signum, self._on_signal)

    def limit(self, seconds: float | None) -> None:
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _on_signal(self, signum: int, frame: Any) -> None:
        self.asked, self.late = True, signum == signal.SIGALRM
        if self.interruptible:
            self.interruptible = False
            raise _StopError


def main(argv: list[str] | None = None) -> int:
    requests = _Requests()
    directory = open_sweep((argv or sys.argv[1:])[0])
    resolved = read_json(directory.resolved)
    config, limit = SweepConfig.from_json(resolved), read_terms(resolved).time_limit
    sweep = Sweep(config, Journal(directory.journal), f"local.{os.urandom(4).hex()}")
    files = TrialFiles(directory, dict(config.space.constants))
    sweep.listener = lambda event: files.write(event, sweep.state)
    sweep.start_attempt(job="", host=socket.gethostname(), nodes=1)
    requests.limit(limit)
    code, reason = 0, "all trials have ended"
    try:
        while trial := sweep.next_trial():
            _run(sweep, trial, directory, requests)
    except _StopError:
        code, reason = STOPPED, f"time_limit of {limit:.0f} s is over" if requests.late else "stopped on request"
    except SlurmtuneError as error:
        code, reason = error.exit_code, str(error)
    sweep.end_attempt(reason, over=requests.late)
    files.close()
    save_winner(directory, sweep.state, config)
    write_report(directory)
    return code


def _run(sweep: Sweep, trial: Trial, directory: SweepDirectory, requests: _Requests) -> None:
    from hpo.trial import Training

    folder = directory.trial(trial.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep.start_trial(trial.id, socket.gethostname())
    try:
        with Training(sweep.config.trial(trial.params), sweep.config.data, folder) as training:
            if training.epoch > trial.epochs:  # cut off between a checkpoint and its report
                _report(sweep, trial, dict(training.metrics), training.finished)
            while not requests.asked and trial.state == "running":
                requests.interruptible = True
                metrics = training.run_epoch()
                requests.interruptible = False
                _report(sweep, trial, metrics, training.finished)
    except SlurmtuneError as error:
        sweep.fail_trial(trial.id, classify(error), describe(error), final=True)
        raise
    if requests.asked and trial.state == "running":
        raise _StopError


def _report(sweep: Sweep, trial: Trial, metrics: dict[str, Any], finished: str) -> None:
    epoch, checkpoint = int(metrics.pop("epoch")), metrics.pop("checkpoint", "")
    path = Path("trials", trial.id, checkpoint).as_posix() if checkpoint else ""
    sweep.report(trial.id, epoch, {**metrics, "host": socket.gethostname()}, path, finished)


if __name__ == "__main__":
    raise SystemExit(main())
