"""Can every kind of model that the space asks for be built? Asks hpo.check.build once and remembers the answers.

A kind is remembered for these versions of torch, timm and our own code, its outputs and image size; so a submit of the
same models starts no torch at all. The same process searches the caches of weights, where hpo.weights has to know.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.cache import Cache
from hpo.check.corners import Case, Kind, spell
from hpo.check.dataset import DataFacts
from hpo.check.findings import Findings
from hpo.config import SweepConfig
from hpo.errors import TrialError, UsageError
from hpo.weights import SEARCH_DEADLINE_S, cannot_search, installed

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    "check/build",
    "check/builder",
    "trial/model",
    "trial/freezing",
    "trial/lowrank",
    "trial/optimizer",
)  # what gives the answers
_PACKAGES = ("torch", "timm")
_RARE = 5  # samples with a value, below which nothing is said of the value as such

Answer = dict[str, Any]


class ModelCheck:
    """Starts at once and goes on beside other checks; `wait` gives the answers. One process for both: importing torch
    is most of the time."""

    def __init__(
        self,
        config: SweepConfig,
        facts: DataFacts,
        kinds: Sequence[Kind],
        deadline_s: float | None,
        weights: Sequence[str] = (),
    ) -> None:
        """`deadline_s`: after which what is not answered is left open; None waits. `weights`: models of which it is to
        be found out where their weights are."""
        side = min(facts.image_size) if facts.image_size else None
        self._about = {"outputs": facts.num_classes, "side": side, "has_table": config.has_table}
        self._cache = Cache("models")
        self._versions = {**{name: installed(name) for name in _PACKAGES}, "sources": _sources()}
        self._cases = [kind.case for kind in kinds]
        self._answers: list[Answer | None] = [self._cache.get(self._key(case)) for case in self._cases]
        self._open = [place for place, answer in enumerate(self._answers) if answer is None]
        self._weights, self.found_weights = list(weights), dict[str, str | None]()
        question = {"cases": [self._cases[place] for place in self._open], "weights": self._weights, **self._about}
        self._builder = Builder(question, deadline_s) if self._open or weights else None

    @property
    def is_ready(self) -> bool:
        """Whether every answer is remembered from before."""
        return self._builder is None

    def close(self) -> None:
        """Ends its process, also before it has answered."""
        if self._builder:
            self._builder.close()

    def wait(self) -> list[Answer | None]:
        """An answer for each kind; None where the deadline came first. From then on `found_weights` says where weights
        are, as hpo.weights.refuse_missing takes it.

        Raises:
            TrialError: the process that builds models ended by itself, as it does without torch.
            WeightsError: nothing was heard of the weights.
        """
        if self._builder is None:
            return self._answers
        first, *lines = self._builder.hear() or [{}]
        self.found_weights = first.get("weights", {})
        for place, answer in zip(self._open, lines, strict=False):
            self._answers[place] = answer
            self._cache.put(self._key(self._cases[place]), answer)
        if self._builder.complaint:
            raise TrialError(f"models cannot be built on this machine ({self._builder.complaint}); is the environment "
                             "whole?")  # fmt: skip
        if self.found_weights.keys() != set(self._weights):
            raise cannot_search(f"no answer in {SEARCH_DEADLINE_S} s")
        return self._answers

    def _key(self, case: Case) -> dict[str, Any]:
        return {"case": case, **self._about, "versions": self._versions}


class Builder:
    """hpo.check.builder as a process, started at once and at work beside other checks."""

    def __init__(self, question: Mapping[str, Any], deadline_s: float | None) -> None:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._temp = tempfile.TemporaryDirectory(prefix="slurmtune-")  # libraries leave files when they are killed
        environ["TMPDIR"] = self._temp.name
        self._end = time.monotonic() + deadline_s if deadline_s else None
        self._alarm: threading.Timer | None = None
        self._late = False
        self.complaint = ""  # its last words, where it ended by itself
        self._asks_weights = bool(question["weights"])
        asked, self._errors = Path(self._temp.name, "question.json"), Path(self._temp.name, "errors")
        asked.write_text(json.dumps(question), encoding="utf-8")
        with asked.open("rb") as stdin, self._errors.open("wb") as stderr:
            self._process = subprocess.Popen([sys.executable, "-m", "hpo.check.builder"], env=environ, text=True,
                                             stdin=stdin, stdout=subprocess.PIPE, stderr=stderr)  # fmt: skip

    def hear(self) -> list[Answer]:
        """Its answers: all of them, or those that it gave before the deadline. Where weights are is waited for longer:
        a sweep without them is lost."""
        assert self._process.stdout
        answers: list[Answer] = []
        self._set_alarm(SEARCH_DEADLINE_S if self._asks_weights else self._left())
        for line in self._process.stdout:
            if line.startswith("{") and line.endswith("\n"):  # not a library's remark, not cut off by the alarm
                answers.append(json.loads(line))
                self._set_alarm(self._left())
        code = self._process.wait()
        self._set_alarm(None)
        if code and not self._late:
            said = self._errors.read_text(errors="replace").strip()
            self.complaint = (said or f"exit code {code}").splitlines()[-1]
        return answers

    def close(self) -> None:
        """Ends it, if it is at work still, and removes what it left."""
        self._set_alarm(None)
        with self._process:
            self._process.kill()
        self._temp.cleanup()

    def _left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _set_alarm(self, seconds: float | None) -> None:
        if self._alarm:
            self._alarm.cancel()
        self._alarm = None if seconds is None else threading.Timer(seconds, self._stop)
        if self._alarm:
            self._alarm.daemon = True
            self._alarm.start()

    def _stop(self) -> None:
        self._late = True
        self._process.kill()


def judge_kinds(kinds: Sequence[Kind], answers: Sequence[Answer | None], findings: Findings) -> int | None:
    """Says which corners of the space are impossible and what share of it they take. What is certain to fail is an
    error: all of the space, a trial that is certain, a value that nothing can use. Returns the most parameters."""
    failed = [(kind, answer) for kind, answer in zip(kinds, answers, strict=True) if answer and "error" in answer]
    drawn = sum(kind.count for kind in kinds)
    for kind, answer in failed:
        if kind.first or len(failed) == len(kinds):
            share = kind.count / drawn if len(kinds) > 1 else None
            first = f"{kind.first[0]} cannot be trained: " if kind.first and len(kinds) > 1 else ""
            findings.refuse("models", TrialError(f"{first}{answer['error']}"), share)
    _judge_values(kinds, failed, findings)
    for kind, answer in failed:
        share = kind.count / drawn
        if not kind.first and len(failed) < len(kinds):
            findings.warn("models", f"{share:.1%} of the space cannot be trained ({spell(kind.case)}): "
                                    f"{answer['error']}",
                          share)  # fmt: skip
    _summarise(kinds, answers, failed, findings)
    return max((answer["parameters"] for answer in answers if answer and "parameters" in answer), default=None)


def judge_limit(
    kinds: Sequence[Kind], answers: Sequence[Answer | None], limit: float | None, findings: Findings
) -> None:
    """Says how much of the space is beyond `limit` parameters, of `constraints`. All of it is an error."""
    sizes = [answer.get("parameters", 0) if answer else 0 for answer in answers]
    over = [(kind, size) for kind, size in zip(kinds, sizes, strict=True) if limit is not None and size > limit]
    if limit is None or not over:
        return
    share = sum(kind.count for kind, _ in over) / sum(kind.count for kind in kinds)
    smallest = min(over, key=lambda found: found[1])
    words = f"{spell(smallest[0].case)} has {smallest[1]:,}"
    if len(over) == len(kinds):
        findings.refuse(
            "models", UsageError(f"constraints.parameters {limit:,.0f} leaves no model: {words}; raise it."), share
        )
    else:
        findings.warn("models", f"{share:.1%} of the space is over constraints.parameters {limit:,.0f} and will not be "
                                f"trained: {words}.", share)  # fmt: skip


def _judge_values(kinds: Sequence[Kind], failed: Sequence[tuple[Kind, Answer]], findings: Findings) -> None:
    """An option of a choice that no configuration can use is an error in the sweep file."""
    drawn: dict[tuple[str, str], int] = {}
    for kind in kinds:
        for value, count in kind.values.items():
            drawn[value] = drawn.get(value, 0) + count
    lost: dict[tuple[str, str], tuple[int, Answer]] = {}
    for kind, answer in failed:
        for value, count in kind.values.items():
            lost[value] = lost.get(value, (0, answer))[0] + count, answer
    options = {key: sum(1 for known, _ in drawn if known == key) for key, _ in drawn}
    for (key, option), (count, answer) in lost.items():
        if count == drawn[key, option] >= _RARE and options[key] > 1:
            share = count / max(1, sum(kind.count for kind in kinds))
            findings.refuse(
                "models", TrialError(f"{key} {option} can never be trained, take it out: {answer['error']}"), share
            )


def _summarise(
    kinds: Sequence[Kind], answers: Sequence[Answer | None], failed: Sequence[tuple[Kind, Answer]], findings: Findings
) -> None:
    drawn = sum(kind.count for kind in kinds)
    unknown = [kind for kind, answer in zip(kinds, answers, strict=True) if answer is None]
    if unknown:
        share = sum(kind.count for kind in unknown) / drawn
        findings.warn("models", f"{len(unknown)} of {len(kinds)} kinds of model were not looked at in time, "
                                f"{share:.1%} of the space; check.py takes the time.", share)  # fmt: skip
    if len(failed) + len(unknown) == len(kinds):
        return
    lost = sum(kind.count for kind, _ in failed) / drawn
    built = len(kinds) - len(failed) - len(unknown)
    findings.ok("models", f"{built} of {len(kinds)} kinds of model can be built; {lost:.1%} of {drawn} configurations "
                          "drawn from the space cannot be trained")  # fmt: skip


def _sources() -> str:
    """Of the code that gives the answers, which in a checkout changes without a new version."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_ROOT / "hpo" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
