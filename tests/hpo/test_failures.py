"""Which class a failure is of, and how often a trial runs again for it."""

from __future__ import annotations

import errno

import pytest

from hpo.errors import AcceleratorError, DataError, TrialError, UsageError, WeightsError
from hpo.failures import CLASSES, TrialFailure, classify, describe, may_retry


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which this room does not import."""


def caused(error, by):
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("x"), "data"),
        (WeightsError("x"), "weights"),
        (AcceleratorError("x"), "accelerator"),
        (TrialError("x"), "trial"),
        (UsageError("x"), "exception"),
        (TrialFailure("oom", "x"), "oom"),
        (MemoryError(), "oom"),
        (OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("x"), "exception"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter: file write failed"), "disk"),
        (caused(RuntimeError("x"), OSError(errno.ENOSPC, "y")), "disk"),
        (OSError(errno.EIO, "Input/output error"), "storage"),
        (OSError(errno.ESTALE, "Stale file handle"), "storage"),
        (FileNotFoundError(errno.ENOENT, "x"), "exception"),
        (ValueError("x"), "exception"),
    ],
)
def test_classes(error, kind):
    assert classify(error) == kind
    assert kind in CLASSES


def test_a_cause_is_one_line():
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert describe(DataError("said well.")) == "said well."
    assert len(describe(ValueError("x" * 9999))) == 500


def failed(kind, epoch):
    return {"kind": kind, "epoch": epoch}


@pytest.mark.parametrize("kind", CLASSES)
def test_retries_are_counted_by_class_and_anew_after_each_epoch(kind):
    allowed = CLASSES[kind].retries
    if kind == "disk":  # nobody's fault: it waits until there is room
        assert may_retry(kind, 2, [failed(kind, 2)] * 99)
        return
    assert may_retry(kind, 2, [failed(kind, 2)] * (allowed - 1)) == (allowed > 0)
    assert not may_retry(kind, 2, [failed(kind, 2)] * allowed)
    assert may_retry(kind, 3, [failed(kind, 2)] * 99) == (allowed > 0)
    assert may_retry(kind, 2, [failed("other", 2)] * 99) == (allowed > 0)


def test_a_class_that_a_newer_program_wrote_is_not_run_again():
    assert not may_retry("unheard of", 1, [])
