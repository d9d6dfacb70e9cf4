"""Puts faults into real trials: Python imports this at its start when the folder is on PYTHONPATH.

FAULT_PLAN, JSON: trial -> {"fault": ..., "epoch": the epoch in which, or "any", "times": how often, default 1}. The
faults that have happened are counted in files of FAULT_COUNTS, since a fault may end the process.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

PLAN = json.loads(os.environ.get("FAULT_PLAN", "{}"))
LEAKED = []


def happen(fault, training):
    """In the middle of an epoch."""
    if fault == "exception":
        raise RuntimeError("injected")
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit 137":
        os._exit(137)
    if fault == "crash":
        ctypes.string_at(0)
    if fault == "leak":
        LEAKED.append(b"x" * 2**26)
    if fault == "slow":
        time.sleep(6)
    if fault == "hang":
        time.sleep(10**6)
    if fault == "hang in a library":
        ctypes.PyDLL(None).sleep(10**6)  # with Python's lock held
    if fault == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "nan":
        import torch

        with torch.no_grad():
            next(training._compute.model.parameters()).fill_(float("nan"))
    if fault == "oom":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
    if fault == "little memory":
        import torch

        def refuse(module, inputs):
            if len(inputs[0]) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")

        training._compute.model.register_forward_pre_hook(refuse)
    if fault == "host memory":
        raise MemoryError("injected")
    if fault == "storage":
        raise OSError(5, "Input/output error", "shard-0000.h5")
    if fault == "disk":
        raise OSError(28, "No space left on device", "weights.safetensors")
    if fault in ("data", "weights"):
        from hpo.errors import DataError, WeightsError

        raise {"data": DataError, "weights": WeightsError}[fault](f"{fault} injected; mend it.")


def arm(module):
    training = module.Training
    train = training._train

    def faulty(self, epoch):
        planned = PLAN.get(self.directory.name)
        if planned and planned["epoch"] in (epoch, "any"):
            counts = Path(os.environ["FAULT_COUNTS"]) / self.directory.name
            happened = counts.stat().st_size if counts.exists() else 0
            if happened < planned.get("times", 1):
                with counts.open("a") as stream:
                    stream.write(".")
                happen(planned["fault"], self)
        return train(self, epoch)

    training._train = faulty


class Finder(importlib.abc.MetaPathFinder):
    """Arms hpo.trial.training when it is imported."""

    def find_spec(self, name, path, target=None):
        if name != "hpo.trial.training":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            arm(module)

        spec.loader.exec_module = exec_module
        return spec


if PLAN:
    sys.meta_path.insert(0, Finder())
