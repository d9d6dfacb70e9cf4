"""Batches carried to a GPU on a stream of their own, while it computes on those before.

The host is ahead of a GPU by what it has queued. A copy in the same queue would wait for all of that; on another stream
it runs beside it, and only the work that needs the batch waits for it. Not run on a GPU yet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch

from hpo.trial.loader import Batch


def carried(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches`, on a GPU with their tensors there; elsewhere as they are. So comes one for which the GPU has no room,
    to be copied piece by piece."""
    if device.type != "cuda":
        yield from batches
        return
    stream = _side_stream(torch.cuda.current_device() if device.index is None else device.index)
    for batch in batches:
        yield _carry(batch, device, stream)


def _carry(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> Batch:
    try:
        with torch.cuda.stream(stream):
            there = batch.to(device)
    except torch.OutOfMemoryError:
        return batch
    user = torch.cuda.current_stream(device)
    user.wait_stream(stream)
    for tensor in there.tensors:
        tensor.record_stream(user)  # their memory belongs to the other stream, which must not reuse it too soon
    return there


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for the life of the process: torch keeps freed memory for the stream that it was of, so that a stream of
    its own for each epoch would hold batches again and again."""
    return torch.cuda.Stream(device)
