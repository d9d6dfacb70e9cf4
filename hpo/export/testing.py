"""The test split's word on a trained trial, as evaluate.py would give it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.read import open_split
from hpo.data.rows import StoredSamples, columns_of
from hpo.errors import SweepError
from hpo.export.scores import classification_scores, regression_scores
from hpo.export.source import find_weights
from hpo.layout import SweepDirectory
from hpo.results.read import read_results
from hpo.trial.inference import TrainedModel


def score_on_test(directory: SweepDirectory, params: Mapping[str, Any]) -> dict[str, float]:
    """Scores by name of the trial with `params` in the sweep in `directory`, by its best epoch, on the test split.

    Raises:
        SweepError: no such trial, or its weights are gone. DataError: there is no test split.
    """
    results = read_results(directory)
    row = next((row for row in results.rows if dict(row.params) == dict(params)), None)
    if row is None:
        raise SweepError(f"{directory.root} has no trial with the configuration to be tested.")
    weights = find_weights(results, row)
    shards = open_split(Path(results.settings["data"]), "test")
    trained = TrainedModel(weights.meta, weights.tensors)
    samples = StoredSamples(shards, columns_of(weights.meta))
    outputs = trained.predict(samples.load(number) for number in range(len(shards)))
    if shards.task == "classification":
        found = classification_scores(shards.labels, outputs)
    else:
        found = regression_scores(shards.labels.astype(np.float64), outputs)
    return {name: estimate.value for name, estimate in found.items()}
