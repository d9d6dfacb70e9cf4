"""Can every kind of model that the space asks for be built? Asks hpo.check.build once and remembers the answers.

A kind is remembered for these versions of torch, timm and our own code, its outputs and image size; so a submit of the
same models starts no torch at all. Weights are hpo.weights's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from hpo.check.cache import Cache
from hpo.check.corners import Case, Kind, spell
from hpo.check.dataset import DataFacts
from hpo.check.findings import Findings
from hpo.config import SweepConfig
from hpo.errors import TrialError, UsageError

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    "check/build",
    "trial/model",
    "trial/freezing",
    "trial/lowrank",
    "trial/optimizer",
)  # what gives the answers
_PACKAGES = ("torch", "timm")
_RARE = 5  # samples with a value, below which nothing is said of the value as such

Answer = dict[str, Any]


class ModelCheck:
    """Starts at once and goes on beside other checks; `wait` gives the answers."""

    def __init__(self, config: SweepConfig, facts: DataFacts, kinds: Sequence[Kind], deadline_s: float | None) -> None:
        """`deadline_s`: after which what is not answered is left open; None waits."""
        side = min(facts.image_size) if facts.image_size else None
        self._about = {"outputs": facts.num_classes, "side": side, "has_table": config.has_table}
        self._cache, self._deadline = Cache("models"), deadline_s
        self._versions = {**{name: _version(name) for name in _PACKAGES}, "sources": _sources()}
        self._cases = [kind.case for kind in kinds]
        self._answers: list[Answer | None] = [self._cache.get(self._key(case)) for case in self._cases]
        self._open = [place for place, answer in enumerate(self._answers) if answer is None]
        self._process = self._start() if self._open else None

    def wait(self) -> list[Answer | None]:
        """An answer for each kind; None where the deadline came first.

        Raises:
            TrialError: the process that builds models ended by itself, as it does without torch.
        """
        if self._process is None:
            return self._answers
        question = {"cases": [self._cases[place] for place in self._open], **self._about}
        alarm = threading.Timer(self._deadline, self._process.kill) if self._deadline else None
        if alarm:
            alarm.start()
        try:
            said, complaint = self._process.communicate(json.dumps(question))
        finally:
            killed = alarm is not None and not alarm.is_alive()
            if alarm:
                alarm.cancel()
            self._temp.cleanup()
        lines = [line for line in said.split("\n")[:-1] if line.startswith("{")]
        for place, line in zip(self._open, lines, strict=False):
            self._answers[place] = answer = json.loads(line)
            self._cache.put(self._key(self._cases[place]), answer)
        if self._process.returncode and not killed:
            last = (complaint.strip() or f"exit code {self._process.returncode}").splitlines()[-1]
            raise TrialError(f"models cannot be built on this machine ({last}); is the environment whole?")
        return self._answers

    def _start(self) -> subprocess.Popen[str]:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._temp = tempfile.TemporaryDirectory(prefix="slurmtune-")  # libraries leave files when they are killed
        environ["TMPDIR"] = self._temp.name
        command = [sys.executable, "-m", "hpo.check.build"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environ)

    def _key(self, case: Case) -> dict[str, Any]:
        return {"case": case, **self._about, "versions": self._versions}


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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _sources() -> str:
    """Of the code that gives the answers, which in a checkout changes without a new version."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((_ROOT / "hpo" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
