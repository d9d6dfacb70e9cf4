"""MultiModalPredictor: AutoGluon AutoMM's calls for images, on this machine or on a SLURM cluster.

    predictor = MultiModalPredictor(label="label")
    predictor.fit(train_data, hyperparameters={"optim.lr": Real(1e-4, 1e-2, log=True)},
                  hyperparameter_tune_kwargs={"searcher": "bayes", "scheduler": "ASHA", "num_trials": 8})
    predictor.evaluate(test_data)

docs/automm.md tells what differs from AutoMM.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.data.cells import CATEGORICAL, IMAGE, NUMERICAL
from hpo.data.images import ImagePolicy
from hpo.data.rows import columns_of
from hpo.errors import UsageError, nearest
from hpo.layout import absolute, read_json
from hpo.metrics import find_metric
from hpo.predictor.arguments import (
    ABSENT,
    check_place,
    check_wishes,
    name_of,
    refuse,
    to_columns,
    to_seconds,
    to_types,
)
from hpo.predictor.boards import board_of, trials_of
from hpo.predictor.document import base_of, read_request
from hpo.predictor.fitting import Data, Place, Wishes, begin_fit, go_on_from
from hpo.predictor.frames import Roles
from hpo.predictor.handle import FitHandle
from hpo.predictor.outcome import finish
from hpo.predictor.record import PredictorFiles, Record
from hpo.predictor.samples import Samples, decoded, is_prepared, read_prepared, read_samples
from hpo.predictor.scores import SCORES
from hpo.predictor.voice import voice
from hpo.results.read import Results, read_results

if TYPE_CHECKING:
    import pandas as pd

_SHARE_OF_TIME = 0.95  # of time_limit for training; the rest is for averaging the best epochs


class MultiModalPredictor:
    """Classifies images, or rows of a table with images, or predicts a number from each.

    Args:
        label: the label column; problem_type: binary, multiclass, classification or regression, found from it if None.
        eval_metric: of `evaluate`; validation_metric: by which epochs and trials are chosen. By name, see hpo.metrics.
        presets, hyperparameters: for every fit; its own go before these.
        path: the directory of the fit, which must not exist (default runs/automm-DATE-ID).
        image_column: one or several, found by their content if None. pretrained: False starts from scratch.
        verbosity: 0 says nothing; enable_progress_bar: False says what is decided, but not how far it is.
    Raises:
        UsageError: an argument is unknown or not supported.
    """

    def __init__(
        self,
        label: str | None = None,
        problem_type: str | None = None,
        *,
        presets: str | None = None,
        eval_metric: str | None = None,
        hyperparameters: Any = None,
        path: str | Path | None = None,
        verbosity: int = 2,
        validation_metric: str | None = None,
        image_column: str | Sequence[str] | None = None,
        pretrained: bool = True,
        enable_progress_bar: bool | None = None,
        **others: Any,
    ) -> None:
        refuse("MultiModalPredictor", others)
        shown, chosen = name_of(eval_metric), name_of(validation_metric)
        check_wishes(label, problem_type, (shown, chosen), presets, verbosity)
        kind = problem_type.lower() if problem_type else None
        progress = enable_progress_bar is not False
        self._wishes = Wishes(label or "label", kind, to_columns(image_column), shown, chosen, verbosity, progress)
        self._presets, self._path = presets, path
        self._hyperparameters = base_of(hyperparameters, pretrained)
        self._files: PredictorFiles | None = None
        self._record: Record | None = None
        self._meta: dict[str, Any] = {}
        self._model: Any = None

    # -- fitting ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        presets: str | None = None,
        tuning_data: Any = None,
        *,
        time_limit: float | timedelta | None = None,
        save_path: str | Path | None = None,
        hyperparameters: Any = None,
        holdout_frac: float | None = None,
        seed: int | None = 0,
        hyperparameter_tune_kwargs: Any = None,
        column_types: Any = None,
        cluster: str = "local",
        slurm: dict[str, Any] | None = None,
        wait: bool = True,
        **others: Any,
    ) -> Any:
        """Trains, with hyperparameter_tune_kwargs after a search. Returns this predictor, or a FitHandle if not `wait`.

        Args:
            train_data: DataFrame, mapping or table file with a label column, image columns and perhaps numbers and
                categories; a folder or zip of class folders; HDF5; or a directory that launch/prepare.py made.
                tuning_data: alike, to validate on. column_types: {column: numerical, categorical, image_path or null}
                where it is not to be found from the cells.
            time_limit: seconds, on SLURM from when the job starts; what is best by then is the result. holdout_frac:
                share to validate on if there are no tuning_data. seed: of everything random, the search included.
            cluster: local or slurm; slurm: words of launch/submit.py, such as {"partition": "gpu", "nodes": 2}.
        Raises:
            UsageError, DataError, ClusterError: before anything starts. SweepError, TrialError: nothing came out.
        """
        began = time.monotonic()
        refuse("fit", others)
        limit = to_seconds(time_limit)
        check_place(cluster, slurm)
        presets = presets or self._presets
        request = read_request(hyperparameters, hyperparameter_tune_kwargs, presets, limit, self._hyperparameters)
        run = save_path or (self._path if self._files is None else None)
        if self._files is not None:
            go_on_from(request, self._files, self._meta)
        data = Data(train_data, tuning_data, holdout_frac, to_types(column_types))
        left = None if limit is None else lambda: max(1.0, _SHARE_OF_TIME * limit - (time.monotonic() - began))
        handle = begin_fit(self._wishes, request, data, run, seed or 0, Place(cluster, slurm, left))
        if not wait:
            return handle
        self._adopt(handle.wait())
        return self

    # -- predicting -------------------------------------------------------------------------------------------------

    def predict(self, data: Any, as_pandas: bool | None = None, **others: Any) -> Any:
        """The class or number of each image: a Series with the table's index for a table or folder, else an array.

        Raises:
            DataError: an image cannot be read. UsageError: nothing is fitted, or no images are named.
        """
        refuse("predict", others)
        samples = self._read(data)
        outputs = self._outputs(samples)
        values = self._decode(outputs)
        return self._frame(values, samples, data, as_pandas)

    def predict_proba(self, data: Any, as_pandas: bool | None = None, as_multiclass: bool = True, **others: Any) -> Any:
        """The probability of each class: a DataFrame with one column a class, or an array (N, C).

        `as_multiclass` False: of a binary problem that of the positive class alone.
        """
        refuse("predict_proba", others)
        labels = self._fitted().labels
        if labels.problem_type == "regression":
            raise UsageError("predict_proba is for classes; this predictor gives numbers, use predict.")
        samples = self._read(data)
        outputs = self._outputs(samples)
        if not as_multiclass and labels.problem_type == "binary":
            outputs = outputs[:, labels.positive]
        return self._frame(outputs, samples, data, as_pandas)

    def evaluate(
        self, data: Any, metrics: str | Sequence[str] | None = None, return_pred: bool = False, **others: Any
    ) -> Any:
        """Scores {name: value} on labelled data, by eval_metric or by the names in `metrics`; log_loss and errors are
        given as they are, lower being better. With `return_pred` also the predictions.

        Raises:
            UsageError: a metric that is unknown or not for this problem. DataError: a label that training did not have.
        """
        refuse("evaluate", others)
        record = self._fitted()
        given = metrics or record.eval_metric
        names = [name_of(name) for name in (given if isinstance(given, (list, tuple)) else [given])]
        chosen = {name: find_metric(name, record.labels.problem_type).name for name in names}
        samples = self._read(data)
        if samples.labels is None:
            raise UsageError(f"{samples.name} has no column {record.label!r} to evaluate by.")
        targets = record.labels.encode(samples.labels, samples.name)
        outputs = self._outputs(samples)
        if record.labels.problem_type == "regression":
            targets, judged = targets[:, 0].astype(np.float64), outputs[:, 0]
        else:
            judged = outputs
        scores = {name: SCORES[metric](targets, judged, record.labels.positive) for name, metric in chosen.items()}
        return (scores, self._frame(self._decode(outputs), samples, data, None)) if return_pred else scores

    def _read(self, data: Any) -> Samples:
        record = self._fitted()
        usual = record.settings.get("image_column", "")
        roles = Roles.of_model(record.label, columns_of(self._meta), record.image, usual)
        return read_prepared(data, "test", roles) if is_prepared(data) else read_samples(data, roles)

    def _outputs(self, samples: Samples) -> np.ndarray:
        if self._model is None:
            from safetensors.torch import load_file

            from hpo.trial.inference import TrainedModel

            assert self._files is not None
            self._model = TrainedModel(self._meta, load_file(self._files.weights))
        policy = ImagePolicy(**self._fitted().settings["images"])
        return self._model.predict(decoded(samples, policy, columns_of(self._meta)))

    def _decode(self, outputs: np.ndarray) -> np.ndarray:
        labels = self._fitted().labels
        if labels.problem_type == "regression":
            return outputs[:, 0]
        return np.array(labels.classes)[outputs.argmax(1)]

    def _frame(self, values: np.ndarray, samples: Samples, data: Any, as_pandas: bool | None) -> Any:
        """As pandas where a table came in, unless the person says otherwise."""
        is_table = hasattr(data, "columns") or isinstance(data, (str, Path))
        if not (is_table if as_pandas is None else as_pandas):
            return values
        import pandas as pd

        record = self._fitted()
        if values.ndim == 1:
            return pd.Series(values, index=samples.index, name=record.label)
        return pd.DataFrame(values, index=samples.index, columns=list(record.labels.classes))

    # -- results ----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The directory of the fit."""
        self._fitted()
        assert self._files is not None
        return str(self._files.root)

    def __getattr__(self, name: str) -> Any:
        remedy = f"; {ABSENT[name]}." if name in ABSENT else f".{nearest(name, dir(type(self)))}"
        raise AttributeError(f"MultiModalPredictor has no {name!r}{remedy}")

    @property
    def label(self) -> str:
        return self._record.label if self._record else self._wishes.label

    @property
    def column_types(self) -> dict[str, str]:
        """What each column is to the model: image_path, numerical or categorical."""
        columns, image = columns_of(self._meta), self._fitted().settings.get("image_column") or "image"
        if columns is None:
            return {image: IMAGE}
        kinds = ((IMAGE, columns.images), (NUMERICAL, columns.numerical), (CATEGORICAL, columns.categorical))
        return {c if isinstance(c, str) else c.name: kind for kind, several in kinds for c in several}

    @property
    def positive_class(self) -> Any:
        """The class of a binary problem that roc_auc, f1, precision and recall are of."""
        labels = self._fitted().labels
        if labels.problem_type != "binary":
            raise UsageError(f"positive_class is of binary problems; this one is {labels.problem_type}.")
        return labels.classes[labels.positive]

    def set_verbosity(self, verbosity: int) -> None:
        self._wishes = replace(self._wishes, verbosity=verbosity)

    @property
    def problem_type(self) -> str | None:
        return self._record.labels.problem_type if self._record else self._wishes.problem_type

    @property
    def class_labels(self) -> list[Any]:
        """The classes in the order of predict_proba's columns."""
        return list(self._fitted().labels.classes)

    @property
    def eval_metric(self) -> str:
        return self._fitted().eval_metric

    @property
    def validation_metric(self) -> str:
        return self._fitted().validation_metric

    @property
    def best_config(self) -> dict[str, Any]:
        """All keys of the model's trial with their values; `fit(hyperparameters=...)` takes them."""
        self._fitted()
        return dict(self._meta["config"])

    def leaderboard(self) -> pd.DataFrame:
        """One row a trial, best first: rank, value, best epoch, state and why, and what was searched."""
        return board_of(self._results(), self._value_name())

    def trials(self) -> list[dict[str, Any]]:
        """Every trial in order, with its parameters, its curve [(epoch, value)] and what became of it."""
        return trials_of(self._results())

    def fit_summary(self, verbosity: int = 0, show_plot: bool = False) -> dict[str, Any]:
        """What the fit came to: the best value by its metric, the trial and epochs it is from, and the time spent."""
        if show_plot:
            raise UsageError("show_plot draws nothing here; launch/report.py makes a page with all plots.")
        results, outcome = self._results(), self._meta["outcome"]
        averaged = outcome["averaged"] if len(outcome["epochs"]) > 1 else None
        summary = {
            self._value_name(): outcome["best_value"] if averaged is None else averaged,
            "training_time": sum(attempt.seconds for attempt in results.attempts),
            "best_trial": outcome["trial"],
            "best_epoch": outcome["best_epoch"],
            "averaged_epochs": outcome["epochs"],
            "trials": results.states,
        }
        if verbosity > 0:
            voice(verbosity)(", ".join(f"{name} {value}" for name, value in summary.items()))
        return summary

    def _value_name(self) -> str:
        return f"val_{self._fitted().validation_metric}"

    def _results(self) -> Results:
        self._fitted()
        assert self._files is not None
        return read_results(self._files.sweep)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, standalone: bool | None = True) -> None:
        """Writes all that `load` needs, results included, to a directory that is new or was saved to before.

        Raises:
            UsageError: it holds something else, such as another fit, or cannot be written.
        """
        refuse("save", {"standalone": standalone})
        self._fitted()
        assert self._files is not None
        if absolute(path) != self._files.root:
            self._files.copy_to(absolute(path))

    @classmethod
    def load(cls, path: str | Path, verbosity: int = 2, **others: Any) -> MultiModalPredictor:
        """The predictor in a directory: one that was saved, or that of a fit, however it ended.

        Raises:
            UsageError: there is none, or its fit is still at work.
        """
        refuse("load", others)
        files = PredictorFiles(absolute(path))
        Record.read(files)
        cut_off = _is_stale(files) and files.job.is_file()
        if cut_off and FitHandle(files.root).status() in ("running", "waiting"):
            raise UsageError(f"the fit in {path} is still at work; MultiModalPredictor.attach({str(path)!r}).wait().")
        return cls._open(files, verbosity)

    @classmethod
    def _open(cls, files: PredictorFiles, verbosity: int) -> MultiModalPredictor:
        """The predictor of a fit that nobody is working on; its model is made here if that was not done yet."""
        record = Record.read(files)
        meta = finish(files, record) if _is_stale(files) else read_json(files.model)
        predictor = cls(label=record.label, image_column=record.image, verbosity=verbosity)
        predictor._files, predictor._record, predictor._meta = files, record, meta
        return predictor

    @classmethod
    def attach(cls, path: str | Path, verbosity: int = 2) -> FitHandle:
        """The fit in a directory, started from this or any other Python process with wait=False.

        Raises:
            UsageError: there is none.
        """
        return FitHandle(path, verbosity=verbosity)

    def _adopt(self, other: MultiModalPredictor) -> None:
        self._files, self._record, self._meta, self._model = other._files, other._record, other._meta, None

    def _fitted(self) -> Record:
        if self._record is None:
            raise UsageError("this predictor is not fitted; call fit, or MultiModalPredictor.load a saved one.")
        return self._record


def _is_stale(files: PredictorFiles) -> bool:
    """Whether there is no model yet, or the journal has gone on since: a fit that was cut off can be resumed."""
    if not files.model.is_file():
        return True
    if not files.sweep.trial("0000").is_dir():  # a copy that was saved
        return False
    return files.sweep.journal.stat().st_mtime > files.model.stat().st_mtime
