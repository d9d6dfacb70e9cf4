"""Workers that make and check shards: tasks in, results out in the same order, never many waiting in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

from hpo.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
_WAITING_EACH = 4  # tasks in flight for each worker: enough to keep it busy, few enough to bound memory


def available_cpus() -> int:
    """The CPUs that this process may use: SLURM and containers give fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Crew:
    """`workers` processes, or this one alone when it is 1. Started at the first task, gone at the end of the `with`.

    Processes are spawned, not forked: the caller may hold threads, locks of HDF5 or a CUDA context. A spawned one
    imports the caller's script again, so where that is a person's the workers are `threads`; decoders free the GIL.
    """

    def __init__(self, workers: int, threads: bool = False) -> None:
        self._workers, self._threads = workers, threads
        self._pool: ProcessPoolExecutor | ThreadPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """The results of `function`, in the order of `tasks`, which are drawn only as workers take them.

        Raises:
            DataError: a worker process died.
        """
        if self._workers == 1:
            yield from map(function, tasks)
            return
        pool = self._started()
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) >= _WAITING_EACH * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError(
                "a worker process died, perhaps for lack of memory; run the same command again with fewer --workers, "
                "it goes on where it stopped."
            ) from None

    def _started(self) -> ProcessPoolExecutor | ThreadPoolExecutor:
        if self._pool is None and self._threads:
            self._pool = ThreadPoolExecutor(self._workers, "slurmtune-shards")
        elif self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _set_up_worker, (os.getpid(),)
            )
        return self._pool


def _set_up_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle, and a parent that was killed leaves nobody behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")  # the verdict on an image stands in skipped.csv
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
