"""The ways in which a trial fails: how each is recognised, whether the trial runs again, and with what change.

A metric that is not finite is no failure but a result: the trial ends as diverged and the searcher learns from it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpo.errors import AcceleratorError, DataError, SlurmtuneError, TrialError, WeightsError


@dataclass(frozen=True)
class FailureClass:
    """`retries`: how often a trial runs again, counted anew after each epoch that it completes in between."""

    retries: int
    meaning: str
    again: str = ""  # what is different when it runs again


CLASSES = {
    "oom": FailureClass(
        1,
        "memory ran out, although the micro-batch had been halved down to one image",
        "in a fresh process, from its checkpoint, with the micro-batch it began with",
    ),
    "killed": FailureClass(
        3,
        "its process ended without a word: SIGKILL (exit 137, the kernel's answer to a full memory) or a crash",
        "in a fresh process, from its checkpoint",
    ),
    "hang": FailureClass(2, "no progress for hang_timeout seconds", "in a fresh process, from its checkpoint"),
    "host": FailureClass(10, "its host was lost", "on another host, from its checkpoint"),
    "storage": FailureClass(3, "the file system gave an error", "in a fresh process, from its checkpoint"),
    "disk": FailureClass(0, "no space or quota is left", "after --resume: the attempt ends, no trial does"),
    "exception": FailureClass(1, "an error that nobody foresaw", "in a fresh process, from its checkpoint"),
    "data": FailureClass(0, "the shards are damaged, missing, or not those that it began with"),
    "weights": FailureClass(0, "pretrained weights are not at hand"),
    "accelerator": FailureClass(0, "a GPU was given and none was found"),
    "trial": FailureClass(0, "this configuration cannot be trained"),
    "infeasible": FailureClass(0, "the model is beyond a limit of `constraints`, and is not trained"),
}
LEARNT = ("oom", "trial", "infeasible")  # of the configuration: the searcher learns to keep away from it
BLOCKING = ("disk",)  # every other trial would fail the same: the attempt ends, none of them does
_BY_TYPE = {AcceleratorError: "accelerator", WeightsError: "weights", TrialError: "trial", DataError: "data"}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY_WORDS = (  # in RuntimeErrors: of CUDA where torch's allocator has no part, of its libraries, of the host
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "can't allocate memory",
)
_FULL_WORDS = ("No space left", "Disk quota exceeded", "file write failed")  # the last is torch.save's


class TrialFailure(Exception):
    """Carries a failure out of a process that is not to be used again."""

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(kind, cause)
        self.kind, self.cause = kind, cause


def classify(error: BaseException) -> str:
    """The class of failure that `error` is of, by its type, its errno, or its `kind`."""
    if kind := getattr(error, "kind", None):
        return str(kind)
    if isinstance(error, SlurmtuneError):
        return next((kind for cls, kind in _BY_TYPE.items() if isinstance(error, cls)), "exception")
    chain = list(_chain(error))
    if any(_is_full(link) for link in chain):
        return "disk"
    if any(is_out_of_memory(link) for link in chain):
        return "oom"
    return "storage" if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT) else "exception"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left, by whichever of torch's errors."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY_WORDS)


def describe(error: BaseException) -> str:
    """`error` on one line."""
    text = str(error) if isinstance(error, SlurmtuneError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]


def may_retry(kind: str, epochs: int, failures: list[dict[str, Any]]) -> bool:
    """Whether a trial that has just failed after `epochs` epochs runs again; `failures` are its earlier ones."""
    if kind in BLOCKING:
        return True
    same = sum(failure["kind"] == kind and failure.get("epoch", epochs) == epochs for failure in failures)
    return same < CLASSES[kind].retries if kind in CLASSES else False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _FULL_WORDS)
