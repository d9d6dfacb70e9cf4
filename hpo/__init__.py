"""slurmtune: hyperparameter optimisation of timm image models on SLURM clusters.

from hpo import MultiModalPredictor                 # AutoGluon AutoMM's calls, see docs/automm.md
from hpo import Real, Int, Categorical, Bool        # its search spaces; Ray Tune's are taken as well

Importing costs nothing: each name is loaded at its first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.domains import Bool, Categorical, Int, Real
    from hpo.predictor.predictor import MultiModalPredictor

__all__ = ["Bool", "Categorical", "Int", "MultiModalPredictor", "Real"]


def __getattr__(name: str) -> Any:
    if name == "MultiModalPredictor":
        from hpo.predictor.predictor import MultiModalPredictor

        return MultiModalPredictor
    if name in __all__:
        from hpo import domains

        return getattr(domains, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
