"""All checks of one sweep, in their order: the quick ones while torch, if it is needed at all, builds the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpo.check.corners import find_kinds
from hpo.check.dataset import check_dataset, read_facts
from hpo.check.findings import Findings
from hpo.check.models import ModelCheck, judge_kinds, judge_limit
from hpo.check.resources import check_resources
from hpo.check.settings import check_settings
from hpo.check.site import check_site
from hpo.check.storage import check_storage
from hpo.cluster.request import SlurmRequest
from hpo.config import SweepConfig

_SUBMIT_S = 8.0  # that a submit waits for models


def check_sweep(
    config: SweepConfig,
    run: Path,
    request: SlurmRequest | None,
    findings: Findings,
    *,
    on_slurm: bool = True,
    deep: bool = False,
    deadline_s: float | None = None,
) -> Findings:
    """Adds to `findings` what is to be said of the sweep that is to be written to `run`.

    Args:
        request: the SLURM job, its defaults filled in; None: there is none, or none that could be filled in.
        on_slurm: it is to run on other hosts.
        deep: reads every byte of the data.
        deadline_s: seconds after which models that were not looked at are left open.
    Raises:
        DataError: there are no data at all.
    """
    facts = read_facts(config)
    kinds = find_kinds(config)
    models = ModelCheck(config, facts, kinds, deadline_s)
    check_settings(config, facts, findings)
    check_dataset(config, facts, findings, on_slurm, deep)
    if request is not None:
        check_site(request, findings)
        check_resources(config, request, findings)
    parameters = None
    with findings.on("models"):
        answers = models.wait()
        parameters = judge_kinds(kinds, answers, findings)
        judge_limit(kinds, answers, config.constraints.get("parameters"), findings)
    check_storage(config, run, findings, on_slurm, parameters)
    return findings


def check_before(
    config: SweepConfig, run: Path, request: SlurmRequest | None, say: Callable[[str], None], skip: bool
) -> None:
    """What every submit looks at; `request` None: the sweep is to run here. Says warnings, and all errors but one.

    Raises:
        SlurmtuneError: the first thing that speaks against it.
    """
    if skip:
        return
    findings = Findings()
    check_sweep(config, run, request, findings, on_slurm=request is not None, deadline_s=_SUBMIT_S)
    for text in findings.warnings:
        say(f"warning: {text}")
    if not findings.errors:
        return
    first, *others = findings.errors
    for error in others:
        say(f"error: {error}")
    raise first
