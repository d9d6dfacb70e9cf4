"""The process that builds models for hpo.check.build, without those parts of torch that building never comes to.

python -m hpo.check.builder < QUESTION.json      # one JSON line an answer: where weights are, then case by case

Half of the seconds that importing torch and timm takes go into parts that they ask for decorators and type checks
only: torch.compile (torch._dynamo), distributed tensors with sympy behind them, Weights & Biases. Here stand-ins take
their place. Where these do not suffice, for a version of timm or for one model, the process starts itself again with
everything, and goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import types
from collections.abc import Callable
from typing import Any

_GIVEN = "SLURMTUNE_BUILDER_GIVEN"  # so many answers were given before it started again
_OPTIONAL = ("wandb", "torch.distributed.tensor")  # timm does without them where they cannot be imported


def main() -> int:
    logging.disable(logging.WARNING)
    whole = _GIVEN in os.environ
    given = number = int(os.environ.get(_GIVEN, "0"))
    try:
        if not whole:
            put_stand_ins()
        from hpo.check.build import answer_all

        for answer in answer_all(json.load(sys.stdin), given):
            if answer.pop("unexpected", False) and not whole:
                _start_again(number)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            number += 1
    except Exception:
        if whole:
            raise
        _start_again(number)
    return 0


def _start_again(given: int) -> None:
    os.environ[_GIVEN] = str(given)
    os.lseek(sys.stdin.fileno(), 0, os.SEEK_SET)
    os.execv(sys.executable, [sys.executable, "-m", "hpo.check.builder"])


def put_stand_ins() -> None:
    """For torch.compile: nothing is compiled here, so that `disable` does nothing, and no function is supported."""
    dynamo, parts = _StandIn("torch._dynamo"), _StandIn("torch._dynamo.utils")
    vars(dynamo).update(__path__=[], disable=_disable, is_compiling=lambda: False, utils=parts)
    vars(parts).update(is_compile_supported=lambda _: False)
    sys.modules.update({"torch._dynamo": dynamo, "torch._dynamo.utils": parts})
    sys.modules.update(dict.fromkeys(_OPTIONAL))  # type: ignore[arg-type]  # None: cannot be imported


def _disable(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """As torch._dynamo.disable, with and without arguments, where nothing is compiled."""
    return function or (lambda decorated: decorated)


class _StandIn(types.ModuleType):
    """Has a class of any name, so that what is asked for by name can be imported, and fits nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


if __name__ == "__main__":
    raise SystemExit(main())
