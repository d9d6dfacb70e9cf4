"""torch.compile for the models of a trial, where a compiler is there and the model can be compiled; else as they are.

Compiled code computes the same up to the order of sums, so that a trial that cannot have it goes on without, with a
warning: whether a node has a compiler is no hyperparameter.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterable

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from hpo.trial.threads import count_cpus

COMPILE_ERRORS = (TorchDynamoException,)  # what tracing and compiling raise, at the first call of each shape
_SHAPES = 64  # of one model: a batch, its pieces, the last batch of an evaluation, halved ones ...

logger = logging.getLogger(__name__)
_warned: set[str] = set()


class Compilation:
    """`models` compiled at their first call, in place: names of weights stay. `active` tells whether they are.

    A model with a table has only its images' part compiled: as many images as a batch's rows have, in one code for all
    numbers. Otherwise each shape has its own code, so that a resumed training computes as an uninterrupted one.
    """

    def __init__(self, models: Iterable[nn.Module], device: torch.device) -> None:
        self._models = list(dict.fromkeys(_compiled_parts(models)))
        reason = missing_tools(device)
        self.active = bool(self._models) and not reason
        if reason:
            _warn_once(f"env.compile: {reason}; training without")
        if not self.active:
            return
        import torch._dynamo.config
        import torch._inductor.config

        torch._dynamo.config.recompile_limit = _SHAPES
        torch._inductor.config.compile_threads = count_cpus()
        # 160 MB in a folder of /tmp that anybody could have made before us; a few kernels are as soon compiled without.
        torch._inductor.config.cpp_cache_precompile_headers = False
        for model, dynamic in self._models:
            model.compile(dynamic=dynamic)

    def give_up(self, reason: str) -> None:
        """Runs the models as they are from here on."""
        if not self.active:
            return
        _warn_once(f"env.compile: torch cannot compile this model ({reason}); training without")
        self.close()
        self.active = False

    def close(self) -> None:
        """Frees what was compiled for them."""
        for model, _ in self._models:
            model._compiled_call_impl = None
        if self.active:
            torch._dynamo.reset()


def missing_tools(device: torch.device) -> str:
    """What torch.compile lacks here, or ''. Its kernels are C++ on a CPU; on a GPU Triton's, with launchers in C."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if torch.cuda.get_device_capability(device) < (7, 0):
            return f"Triton does not know {torch.cuda.get_device_name(device)}"
        if not _found("CC", "gcc", "clang", "cc"):
            return "no C compiler was found ($CC, gcc, clang); load the site's compiler module"
        return ""
    if not _found("CXX", "g++", "clang++"):
        return "no C++ compiler was found ($CXX, g++, clang++); load the site's compiler module"
    return ""


def _found(variable: str, *names: str) -> bool:
    asked = os.environ.get(variable, "").split()[:1]
    return any(shutil.which(name) for name in asked or names)


def _compiled_parts(models: Iterable[nn.Module]) -> Iterable[tuple[nn.Module, bool]]:
    """Each with whether its shapes are left open."""
    for model in models:
        image = getattr(model, "image", None)
        if hasattr(model, "fusion_mlp"):
            if image is not None:
                yield image, True
        else:
            yield model, False


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        logger.warning(text)
