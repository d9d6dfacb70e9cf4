"""The kind of problem, found from the label column, and labels to numbers and back."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hpo.errors import DataError, UsageError
from hpo.predictor.labels import Labels, infer_labels


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["dog", "cat", "dog"], "binary", ("cat", "dog")),
        (["dog", "cat", "cow"], "multiclass", ("cat", "cow", "dog")),
        ([10, 2] * 20, "binary", (2, 10)),
        ([10, 2, 33] * 20, "multiclass", (2, 10, 33)),  # by value, not by text
        ([3.0, 1.0, 2.0] * 20, "multiclass", (1.0, 2.0, 3.0)),
        ([1.5, 2.5, 3.5] * 20, "regression", ()),
        (list(range(100)), "regression", ()),  # whole, but too many different ones for classes
        ([True, False, True], "binary", (False, True)),
        ([0.5, 1.5], "binary", (0.5, 1.5)),
    ],
)
def test_found_from_the_label(values, kind, classes):
    labels = infer_labels(pd.Series(values).tolist(), None)
    assert (labels.problem_type, labels.classes) == (kind, classes)
    again = Labels.from_json(json.loads(json.dumps(labels.to_json())))
    assert again == labels
    assert [type(c) for c in again.classes] == [type(c) for c in classes]


def test_settable():
    assert infer_labels([1, 2, 3] * 20, "regression").problem_type == "regression"
    assert infer_labels(list(range(20)), "multiclass").classes == tuple(range(20))
    assert infer_labels(list(range(20)), "classification").problem_type == "multiclass"
    assert infer_labels(["no", "yes"], None, "no").positive == 0
    with pytest.raises(UsageError, match="problem_type must be one of"):
        infer_labels([1, 2], "ranking")
    with pytest.raises(UsageError, match="label has 3 values; use multiclass"):
        infer_labels([1, 2, 3], "binary")
    with pytest.raises(UsageError, match="pos_label 'maybe' is none of the classes"):
        infer_labels(["no", "yes"], None, "maybe")


def test_encoding():
    labels = infer_labels([1, 2, 3] * 20, None)
    np.testing.assert_array_equal(labels.encode(np.array([3.0, 1.0]), "test"), [2, 0])  # a gap made the column float
    with pytest.raises(DataError, match="test row 1 has class 4, which training did not have"):
        labels.encode([1, 4], "test")
    with pytest.raises(DataError, match="train_data row 1 has no label"):
        infer_labels(["a", None], None)
    with pytest.raises(DataError, match="train_data row 1 has no label"):
        infer_labels([1.0, float("nan")], None)
    for column in (pd.array([1, None], "Int64"), pd.array(["a", None], "string"), pd.to_datetime(["2026-01-01", None])):
        with pytest.raises(DataError, match="train_data row 1 has no label|row 0 has label Timestamp"):
            infer_labels(pd.Series(column).tolist(), None)
    assert infer_labels(pd.Series([3, 1] * 5, dtype="Int64").tolist(), None).classes == (1, 3)
    mixed = [1.0, "a", 2.5, 1.0]  # of a column that pandas has read in parts
    assert infer_labels(mixed, None).classes == ("1", "2.5", "a")
    np.testing.assert_array_equal(infer_labels(mixed, None).encode(["1", 1.0, "a", 1], "test"), [0, 0, 2, 0])
    assert infer_labels(pd.Series(["b", "a"], dtype="category").tolist(), None).classes == ("a", "b")
    with pytest.raises(DataError, match=r"row 0 has label \[1, 2\]; a label is one number or text"):
        infer_labels([[1, 2], [3, 4]], None)
    with pytest.raises(DataError, match="every row of train_data has the label 'a'"):
        infer_labels(["a", "a"], "multiclass")
    with pytest.raises(DataError, match="row 0 has label 'x', not a finite number"):
        infer_labels([1.5, 2.5, 3.5], None).encode(["x"], "test")
