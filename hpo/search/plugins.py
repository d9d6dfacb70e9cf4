"""Searchers and schedulers of Ray Tune for a sweep that names them; others do not wait for Ray's import here."""

from __future__ import annotations

from hpo.config import SweepConfig
from hpo.layout import SweepDirectory
from hpo.plugins import is_plugin
from hpo.records import Journal
from hpo.search.guided import GuidedSweep
from hpo.search.lockstep import LockstepSweep
from hpo.search.sweep import Sweep


def open_sweep(config: SweepConfig, journal: Journal, attempt: str, directory: SweepDirectory) -> Sweep:
    """The sweep in `directory`, with the searcher and the scheduler that it names.

    Raises:
        UsageError: one of Ray Tune's cannot be made, does not fit the sweep, or is another user's pickle.
    """
    if not _any(config):
        return (LockstepSweep if config.tune.deterministic else Sweep)(config, journal, attempt)
    from hpo.search.ray_plugins import load_plugins

    return GuidedSweep(config, journal, attempt, *load_plugins(config, directory))


def rehearse(config: SweepConfig) -> list[str]:
    """Tries those of Ray Tune before there is a job; returns what a person should know of them.

    Raises:
        UsageError: something in them cannot work; says what.
    """
    if not _any(config):
        return []
    from hpo.search.ray_plugins import rehearse_plugins

    return rehearse_plugins(config)


def _any(config: SweepConfig) -> bool:
    return is_plugin(config.tune.searcher) or is_plugin(config.tune.scheduler)
