"""A trial on several processes: starts its ranks, has them train in step, and ends all when one fails.

It computes nothing itself, so that whatever becomes of a rank there is somebody left to say so.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from hpo.errors import TrialError
from hpo.trial.rank import config_to_json
from hpo.trial.rankprocesses import Message, NodeRanks
from hpo.trialconfig import TrialConfig

_GRACE_S = 5.0  # for the other ranks to say what they know, once one has failed
_OPEN_S = 900.0  # to import PyTorch from a slow file system
_CLOSE_S = 30.0  # to free a trial's memory
_SILENCE = 0.9  # of the timeout: before the watchdog of our own process ends us

logger = logging.getLogger(__name__)


class RankFailure(TrialError):
    """What became of a rank, as one of the classes of hpo.failures."""

    def __init__(self, kind: str, cause: str, too_much: int | None = None) -> None:
        super().__init__(cause)
        self.kind, self.too_much = kind, too_much


class Group:
    """The ranks of all `nodes`, numbered through. They stay from trial to trial, until one fails or `end`.

    address: of several nodes the IP of the first one, at which its rank 0 awaits the others.
    """

    def __init__(self, *nodes: NodeRanks, address: str = "") -> None:
        self._nodes, self.address = nodes, address
        self._firsts = [sum(node.count for node in nodes[:place]) for place in range(len(nodes))]
        self.world, self.nodes = sum(node.count for node in nodes), len(nodes)

    def start(self, logs: Iterable[Path]) -> None:
        """Unless they are there. What those of a node say goes to its log, until they are told of a trial with
        another."""
        if self.alive:
            return
        self.end()
        for node, first, log in zip(self._nodes, self._firsts, logs, strict=True):
            node.start(first, self.world, log)

    def call(
        self,
        messages: list[Message],
        silence_s: float,
        progress: Callable[[], None] = lambda: None,
        patient: bool = False,
    ) -> list[Message]:
        """Tells each rank its message; returns their answers when all have come. Otherwise all ranks are ended, some
        seconds after the first failure if that may be the consequence of another.

        `progress` is called when a rank says that it makes some; `patient`: every second, since imports say nothing.

        Raises:
            RankFailure: a rank failed or died, or none made progress for `silence_s` seconds.
        """
        for node, first in zip(self._nodes, self._firsts, strict=True):
            node.send(messages[first : first + node.count])
        answers: dict[int, Message] = {}
        heard, ends = time.monotonic(), math.inf
        while len(answers) < self.world and time.monotonic() < ends:
            if time.monotonic() > heard + silence_s:
                raise self._hang(silence_s)
            if patient:
                progress()
            for rank, answer in self._listen(answers):
                heard = time.monotonic()
                if "progress" in answer:
                    progress()
                    continue
                answers[rank] = answer
                if "failure" in answer:
                    ends = min(ends, heard + (_GRACE_S if answer["failure"]["because"] else 0))
        if ends < math.inf:
            raise self._fail([answer["failure"] for answer in answers.values() if "failure" in answer])
        return [answers[rank] for rank in range(self.world)]

    def _listen(self, answered: Collection[int]) -> Iterator[tuple[int, Message]]:
        """What ranks say that have not answered yet, within a second."""
        sources: dict[Any, tuple[NodeRanks, int, Connection]] = {}
        for node, first in zip(self._nodes, self._firsts, strict=True):
            waiting = [rank for rank in range(node.count) if first + rank not in answered]
            sources.update({source: (node, first, source) for source in node.sources(waiting)})
        for ready in wait(list(sources), timeout=1.0):
            node, first, source = sources[ready]
            rank, answer = node.receive(source)
            yield first + rank, answer

    def _fail(self, failures: list[Message]) -> RankFailure:
        """The failure that the others follow from: a rank that lost its partner is not the cause. A node that is lost
        says nothing itself."""
        if all(failure["because"] for failure in failures):
            failures = [*failures, *(loss["failure"] for node in self._nodes if (loss := node.find_loss()))]
        self.end()
        first = min(failures, key=lambda failure: failure["because"])
        return RankFailure(first["kind"], first["cause"], first.get("too_much"))

    def _hang(self, silence_s: float) -> RankFailure:
        for node in self._nodes:
            node.abort()
        self.end()
        cause = f"none of {self.world} processes made progress for {silence_s:.0f} s; the trial's log has their stacks"
        return RankFailure("hang", cause)

    def end(self) -> None:
        """Ends all ranks, whatever they do. May be repeated."""
        for node in self._nodes:
            node.end()

    @property
    def alive(self) -> bool:
        return all(node.alive for node in self._nodes)


class RankedTraining:
    """A Training, as hpo.trial.training has it, on the ranks of a group."""

    def __init__(
        self,
        group: Group,
        config: TrialConfig,
        data: Path,
        directory: Path,
        progress: Callable[[], None] = lambda: None,
        micro_batches: Path | None = None,
        hang_timeout: float = 0,
        deterministic: bool = False,
        compiled: Path | None = None,
    ) -> None:
        self._group, self._progress = group, progress
        self._silence = hang_timeout * _SILENCE or math.inf
        self._patience = max(_OPEN_S, self._silence)
        self._meeting = tempfile.TemporaryDirectory(prefix="slurmtune-ranks-")
        # Those of another node have a log of their own: NFS does not append in turn.
        self._logs = [directory / (f"log-{node}.txt" if node else "log.txt") for node in range(group.nodes)]
        self._message: Message = {
            "do": "open",
            "config": config_to_json(config),
            "data": str(data),
            "directory": str(directory),
            "micro_batches": str(micro_batches) if micro_batches else None,
            "deterministic": deterministic,
            "compiled": str(compiled) if compiled else None,
        }
        directory.mkdir(parents=True, exist_ok=True)
        self._opened = 0
        self._answers = self._open()

    def _open(self, at_most: int | None = None) -> list[Message]:
        """`at_most`: images at a time of a rank, where more are known not to fit."""
        self._opened += 1
        group = self._group
        group.start(self._logs)
        about = {"world": group.world, "nodes": group.nodes, "meeting": self._meet()}
        messages = [
            {
                **self._message,
                "log": str(self._logs[rank * group.nodes // group.world]),
                "at_most": at_most,
                "ranks": {"rank": rank, **about},
            }
            for rank in range(group.world)
        ]
        return group.call(messages, self._patience, self._progress, patient=True)

    def _meet(self) -> str:
        """Where the ranks find each other: at a file or, over several nodes, at rank 0."""
        group = self._group
        if group.nodes == 1:
            return str(Path(self._meeting.name) / str(self._opened))
        messages = [{"do": "meet", "address": "" if rank else group.address} for rank in range(group.world)]
        return str(group.call(messages, self._patience, self._progress, patient=True)[0]["meeting"])

    @property
    def _state(self) -> Message:
        return self._answers[0]

    @property
    def epoch(self) -> int:
        return int(self._state["epoch"])

    @property
    def metrics(self) -> dict[str, Any]:
        hosts = ", ".join(dict.fromkeys(answer["host"] for answer in self._answers))
        return {**self._state["metrics"], "ranks": self._group.world, "host": hosts}

    @property
    def finished(self) -> str:
        return str(self._state["finished"])

    @property
    def best_epoch(self) -> int:
        return int(self._state["best_epoch"])

    @property
    def best_value(self) -> float:
        return float(self._state["best_value"])

    @property
    def device(self) -> str:
        return str(self._state["device"])

    def run_epoch(self) -> dict[str, Any]:
        """The next epoch's metrics. When a rank runs out of memory all begin anew from the last checkpoint, with half
        as many images at a time."""
        while True:
            try:
                messages = [{"do": "epoch"}] * self._group.world
                self._answers = self._group.call(messages, self._silence, self._progress)
                return self.metrics
            except RankFailure as failure:
                if not failure.too_much:
                    raise
                logger.warning("%s All %d processes begin again with half of it.", failure, self._group.world)
                self._answers = self._open(failure.too_much // 2)

    def close(self) -> None:
        """The ranks stay, ready for the next trial, unless one of them has served long enough."""
        if self._group.alive:
            with contextlib.suppress(RankFailure):
                self._replace_worn(self._group.call([{"do": "close"}] * self._group.world, _CLOSE_S))
        self._meeting.cleanup()

    def _replace_worn(self, answers: Iterable[Mapping[str, Any]]) -> None:
        for rank, answer in enumerate(answers):
            if answer["worn"]:
                with contextlib.suppress(OSError), self._logs[0].open("a") as log:  # no space: it is but a remark
                    log.write(f"all {self._group.world} processes are replaced: of {rank}, {answer['worn']}\n")
                self._group.end()
                return
