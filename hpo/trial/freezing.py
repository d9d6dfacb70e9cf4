"""Which parameters of a model are trained: all, or few of a pretrained one. The classifier always is.

    linear_probe   the classifier alone
    bit_fit        biases (Ben Zaken et al. 2022, arXiv 2106.10199)
    norm_fit       weights and biases of normalisation layers
    lora           adapters of low rank, see hpo.trial.lowrank; lora_bias and lora_norm: with one of the above

A batch norm whose weight is frozen keeps its statistics too: otherwise the features that the classifier learns from
would move under it. Checkpoints hold all weights whatever was trained, so that each loads by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpo.errors import TrialError
from hpo.trial.lowrank import add_adapters
from hpo.trial.model import classifier_of
from hpo.trialconfig import TrialConfig
from hpo.trialkeys import PEFT

_PARTS = {"bit_fit": "bias", "lora_bias": "bias", "norm_fit": "norm", "lora_norm": "norm"}


def freeze(model: nn.Module, config: TrialConfig) -> None:
    """Leaves only what `optim.peft` names trainable, adding adapters where it is LoRA; None: everything.

    Raises:
        TrialError: the model has no such parameters.
    """
    peft, extra = config.optim.peft, config.optim.extra_trainable_params
    if peft is None:
        if extra:
            raise TrialError("optim.extra_trainable_params needs optim.peft: without it everything is trained anyway.")
        return
    classifier = classifier_of(model)
    head = {id(parameter) for parameter in classifier.parameters()}
    chosen = _find(model, _PARTS.get(peft, "")) | _find_named(model, extra)
    if peft in _PARTS and not chosen - head:
        raise TrialError(f"optim.peft is {peft}, but this model has no such parameters; choose of {', '.join(PEFT)}.")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen | head)
    if peft.startswith("lora"):  # the adapters come new and trainable
        add_adapters(model, config.lora, classifier)


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms that are to stay as in evaluation while the rest is trained."""
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    trained = any(not parameter.requires_grad for parameter in model.parameters())
    return [norm for norm in norms if trained and not (norm.weight is not None and norm.weight.requires_grad)]


def _find(model: nn.Module, part: str) -> set[int]:
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if (part == "bias" and name == "bias") or (part == "norm" and "norm" in type(module).__name__.lower())
    }


def _find_named(model: nn.Module, patterns: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for pattern in patterns:
        try:
            named = {id(parameter) for name, parameter in model.named_parameters() if re.search(pattern, name)}
        except re.error as error:
            raise TrialError(f"optim.extra_trainable_params {pattern!r} is no regular expression ({error}).") from None
        if not named:
            raise TrialError(f"optim.extra_trainable_params {pattern!r} matches no parameter of this model.")
        found |= named
    return found
