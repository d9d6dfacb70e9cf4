"""Which parameters of a model are trained: all, or few of a pretrained one. The classifier always is.

    linear_probe   the classifier alone
    bit_fit        biases (Ben Zaken et al. 2022, arXiv 2106.10199)
    norm_fit       weights and biases of normalisation layers

Checkpoints hold all weights whatever was trained, so that each loads by itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hpo.errors import TrialError
from hpo.trialconfig import PEFT


def freeze(model: nn.Module, peft: str | None) -> None:
    """Leaves only what `peft` names trainable; None: everything.

    Raises:
        TrialError: the model has no such parameters.
    """
    if peft is None:
        return
    get_classifier: Any = model.get_classifier
    head = {id(parameter) for parameter in get_classifier().parameters()}
    chosen = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if (peft == "bit_fit" and name == "bias") or (peft == "norm_fit" and "norm" in type(module).__name__.lower())
    }
    if peft != PEFT[0] and not chosen - head:
        raise TrialError(f"optim.peft is {peft}, but this model has no such parameters; choose of {', '.join(PEFT)}.")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen | head)
