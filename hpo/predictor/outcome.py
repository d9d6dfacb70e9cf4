"""From a sweep's directory to one model: the best trial by its best epoch, averaged with its next best ones.

Whatever ended the trial or the sweep: files alone decide, and none of them but our own two is written or removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.config import SweepConfig
from hpo.errors import DataError, SlurmtuneError, SweepError, TrialError, WeightsError
from hpo.layout import read_json, write_json
from hpo.predictor.record import PredictorFiles, Record
from hpo.records import SweepState, Trial, read_events

if TYPE_CHECKING:
    from hpo.trial.checkpoint import Checkpoint

_ERRORS: dict[str, type[SlurmtuneError]] = {"data": DataError, "weights": WeightsError, "trial": TrialError}


def finish(files: PredictorFiles, record: Record) -> dict[str, Any]:
    """Writes the model of the sweep in `files`, which no attempt is working on, and returns its description.

    Raises:
        SweepError, TrialError, WeightsError, DataError: no trial left a model; says why the last one ended.
    """
    config = SweepConfig.from_json(read_json(files.sweep.resolved))
    state = SweepState(read_events(files.sweep.journal))
    trial, checkpoints = _best_with_weights(files, state, config)
    from hpo.trial.soup import average

    soup = average(checkpoints, config.data, record.soup)
    about = {
        "trial": trial.id,
        "epochs": list(soup.epochs),
        "best_epoch": checkpoints[0].epoch,
        "best_value": checkpoints[0].load_meta()["value"],
        "single": soup.single,
        "averaged": soup.value,
    }
    description = {**soup.meta, "outcome": about}
    soup.save(files.weights)
    write_json(files.model, description)  # last: with it the model is complete
    return description


def _best_with_weights(files: PredictorFiles, state: SweepState, config: SweepConfig) -> tuple[Trial, list[Checkpoint]]:
    """The first trial of the ranking whose best epochs are at hand and whole."""
    from hpo.trial.soup import ranked_checkpoints

    for trial in state.ranking():
        found = ranked_checkpoints(files.sweep.trial(trial.id), config.mode)[: config.tune.num_to_keep]
        if found:
            return trial, found
    raise _explain(files.root, state, config)


def _explain(root: Path, state: SweepState, config: SweepConfig) -> SlurmtuneError:
    failed = [trial for trial in state.trials.values() if trial.failures]
    if failed:
        failure = failed[-1].failures[-1]
        return _ERRORS.get(failure["kind"], SweepError)(str(failure["cause"]))
    if state.ranking():
        return SweepError(f"no checkpoint of any trial in {root / 'trials'} is left and whole; fit anew.")
    if any(trial.finished for trial in state.trials.values()):
        return SweepError(f"no trial gave a finite {config.metric}; try lower learning rates. {root} holds the curves.")
    return SweepError(
        f"the fit ended before its first epoch, its log is below {root}; give it more time, or go on with it: "
        f"launch/submit.py --resume {root}."
    )
