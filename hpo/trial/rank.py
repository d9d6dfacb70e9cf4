"""One rank of a trial, a process of hpo.trial.group: opens the trial it is told of and trains epoch by epoch.

`python -m hpo.trial.rank FD`. Through socket FD come JSON objects, each answered by one: {"do": "meet", "address": IP}
when ranks are to find each other there, {"do": "open", ...}, {"do": "epoch"}, {"do": "close"}. While it works it says
{"progress": true} from time to time. The process stays for the next trial, and ends with the group.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import SlurmtuneError
from hpo.failures import classify, describe
from hpo.trial.wear import Wear
from hpo.trialconfig import TrialConfig

if TYPE_CHECKING:
    from hpo.trial.training import Training

_PR_SET_PDEATHSIG = 1
_OTHERS = ("DistNetworkError", "DistBackendError", "DistStoreError", "DistError")  # errors of who lost another rank
_OTHERS_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
_PROGRESS_S = 0.5


def main(arguments: list[str]) -> int:
    _die_with_parent()
    connection = Connection(int(arguments[0]))
    server = _Rank(lambda message: connection.send_bytes(json.dumps(message).encode()))
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return 0
        server.answer(message)


def config_to_json(config: TrialConfig) -> dict[str, Any]:
    more = ("metric", "mode", "seed", "num_to_keep")
    return {
        "keys": config.to_flat(has_table=True),
        "constraints": dict(config.constraints),
        "objectives": list(config.objectives),
        **{name: getattr(config, name) for name in more},
    }


def config_from_json(values: Mapping[str, Any]) -> TrialConfig:
    more = {name: value for name, value in values.items() if name != "keys"}
    return TrialConfig.from_flat(values["keys"], **{**more, "objectives": tuple(values["objectives"])})


class _Rank:
    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._training: Training | None = None
        self._wear = Wear()
        self._store: Any = None  # where ranks of several nodes meet, if that is here; stays until they meet anew
        self._said = -_PROGRESS_S

    def answer(self, message: Mapping[str, Any]) -> None:
        try:
            self._say(self._do(message))
        except Exception as error:  # the group decides what becomes of it
            traceback.print_exc()
            self._say({"failure": _explain(error)})

    def _do(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if message["do"] == "epoch" and self._training:
            self._training.run_epoch()
            return self._state()
        self._close()
        if message["do"] == "meet":
            return self._meet(message["address"])
        if message["do"] == "open":
            self._open(message)
            return self._state()
        return {"worn": self._wear.reason}

    def _meet(self, address: str) -> dict[str, Any]:
        from hpo.trial.ranks import open_meeting  # here, so that nobody waits at the meeting for another's imports

        self._store, meeting = open_meeting(address) if address else (None, "")
        return {"meeting": meeting}

    def _open(self, message: Mapping[str, Any]) -> None:
        from hpo.trial.device import demand_determinism
        from hpo.trial.ranks import Ranks
        from hpo.trial.training import Training

        _speak_to(Path(message["log"]))
        if message["deterministic"]:
            demand_determinism()
        self._wear.begin_trial()
        memory, compiled = message["micro_batches"], message["compiled"]
        self._training = Training(
            config_from_json(message["config"]),
            Path(message["data"]),
            Path(message["directory"]),
            self._tick,
            micro_batches=Path(memory) if memory else None,
            ranks=Ranks(**message["ranks"]),
            at_most=message["at_most"],
            compiled=Path(compiled) if compiled else None,
        )

    def _close(self) -> None:
        if self._training:
            self._training.close()
            self._training = None
            self._wear.end_trial()

    def _tick(self) -> None:
        if time.monotonic() - self._said > _PROGRESS_S:
            self._said = time.monotonic()
            self._say({"progress": True})

    def _state(self) -> dict[str, Any]:
        names = ("epoch", "metrics", "finished", "best_epoch", "best_value", "device")
        return {"host": socket.gethostname(), **{name: getattr(self._training, name) for name in names}}


def _explain(error: Exception) -> dict[str, Any]:
    """`because`: the error is that of another rank, and this one only noticed."""
    because = type(error).__name__ in _OTHERS or (
        isinstance(error, RuntimeError)
        and not isinstance(error, SlurmtuneError)
        and any(words in str(error) for words in _OTHERS_WORDS)
    )
    about = {"kind": classify(error), "cause": describe(error), "because": because}
    return {**about, "too_much": getattr(error, "micro_batch", None)}


def _speak_to(log: Path) -> None:
    """What this process and its libraries say belongs to the trial; of its warnings rank 0 writes its own."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    os.close(handle)


def _die_with_parent() -> None:
    """However that ends; and a crash leaves its stacks in the log, but no gigabytes of memory on the disk."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
