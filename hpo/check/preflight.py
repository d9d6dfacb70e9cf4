"""All checks of one sweep, in their order: those that cost nothing at once, then SLURM's answers, while torch, if it is
needed at all, builds the models in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hpo.check.corners import Kind, find_kinds
from hpo.check.dataset import DataFacts, check_dataset, read_facts
from hpo.check.findings import Findings
from hpo.check.models import ModelCheck, judge_kinds, judge_limit
from hpo.check.resources import check_local, check_resources
from hpo.check.settings import check_settings
from hpo.check.site import check_site
from hpo.check.storage import check_place, check_room
from hpo.cluster.request import SlurmRequest
from hpo.config import SweepConfig
from hpo.weights import check_weights, refuse_missing, unknown_weights

_SUBMIT_S = 8.0  # that a submit waits for models


class Preflight:
    """As a context: `findings` begins with what can be seen at once; `judge` adds the rest."""

    def __init__(
        self,
        config: SweepConfig,
        run: Path,
        findings: Findings,
        *,
        on_slurm: bool,
        remedy: str,
        may_download: bool,
        mode: Literal["all", "deep", "submit", "weights"] = "all",
    ) -> None:
        """Args:
        run: the directory that is to be made for the sweep.
        on_slurm: it is to run on other hosts.
        remedy: the command that fetches weights; `may_download`: trials may do so themselves.
        mode: deep reads every byte of the data; submit starts no torch where something speaks against the sweep
            already, and leaves models open that were not built in time; weights looks for nothing but them.
        """
        self.findings, self._config, self._run, self._remedy = findings, config, run, remedy
        self._mode = mode
        self._kinds: list[Kind] = []
        self._models: ModelCheck | None = None
        if mode == "weights":
            with findings.on("models"):
                check_weights(config.space, remedy, may_download)
            return
        weights: list[str] = []
        facts: DataFacts | None = None
        with findings.on("data"):
            facts = read_facts(config)
            check_settings(config, facts, findings)
            check_dataset(config, facts, findings, on_slurm, mode == "deep")
        if not on_slurm:
            check_local(config, findings)
        check_place(run, findings, on_slurm)
        self._has_place = not findings.wrong("directory")
        with findings.on("models"):
            weights = unknown_weights(config.space, may_download)
        if facts is None or (findings.errors and mode == "submit"):
            return
        self._kinds = find_kinds(config)
        self._models = ModelCheck(config, facts, self._kinds, _SUBMIT_S if mode == "submit" else None, weights)

    def __enter__(self) -> Preflight:
        return self

    def __exit__(self, *_: object) -> None:
        if self._models:
            self._models.close()

    def judge(self, request: SlurmRequest | None) -> None:
        """`request`: the SLURM job, its defaults filled in; None: there is none, or none that could be filled in."""
        if self._mode == "weights":
            return
        if request is not None:
            check_site(request, self.findings)
            check_resources(self._config, request, self.findings)
        parameters = None
        hopeless = self._mode == "submit" and self.findings.errors
        if self._models and (self._models.is_ready or not hopeless):
            with self.findings.on("models"):
                parameters = self._judge_models(self._models)
        if self._has_place:
            check_room(self._config, self._run, self.findings, parameters)

    def _judge_models(self, models: ModelCheck) -> int | None:
        """The most parameters of a model."""
        answers = models.wait()
        parameters = judge_kinds(self._kinds, answers, self.findings)
        judge_limit(self._kinds, answers, self._config.constraints.get("parameters"), self.findings)
        refuse_missing(models.found_weights, self._remedy)
        return parameters


def check_before(
    config: SweepConfig,
    run: Path,
    request: SlurmRequest,
    say: Callable[[str], None],
    *,
    remedy: str,
    may_download: bool,
) -> None:
    """What a submit to SLURM looks at, in one call; see Preflight.

    Raises:
        SlurmtuneError: the first thing that speaks against it.
    """
    findings = Findings()
    with Preflight(
        config, run, findings, on_slurm=True, remedy=remedy, may_download=may_download, mode="submit"
    ) as checks:
        checks.judge(request)
    raise_first(findings, say)


def raise_first(findings: Findings, say: Callable[[str], None]) -> None:
    """Says warnings, and all errors but the first.

    Raises:
        SlurmtuneError: the first error, if there is one.
    """
    for text in findings.warnings:
        say(f"warning: {text}")
    if not findings.errors:
        return
    first, *others = findings.errors
    for error in others:
        say(f"error: {error}")
    raise first
