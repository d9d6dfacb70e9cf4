"""Batches carried to a GPU on a stream of their own, while it computes on those before.

The host is ahead of a GPU by what it has queued. A copy in the same queue would wait for all of that; on another stream
it runs beside it, and only the work that needs the batch waits for it. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from hpo.trial.loader import Batch


def carried(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches`, on a GPU with their tensors there; elsewhere as they are. So comes one for which the GPU has no room,
    to be copied piece by piece."""
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    for batch in batches:
        try:
            with torch.cuda.stream(stream):
                there = batch.to(device)
        except torch.OutOfMemoryError:
            yield batch
            continue
        user = torch.cuda.current_stream(device)
        user.wait_stream(stream)
        for tensor in there.tensors:
            tensor.record_stream(user)  # their memory belongs to the other stream, which must not reuse it too soon
        yield there
