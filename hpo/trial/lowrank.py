"""LoRA (Hu et al. 2021, arXiv 2106.09685): a layer's weight W stays, and W + alpha / r * U V of rank r is used.

The product is a parametrisation of torch's own (torch.nn.utils.parametrize), so it works for every linear and
convolution layer, adds nothing to the model's code, and merging is to read the weight. A convolution's kernel counts
as a matrix of its outputs by all the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hpo.errors import TrialError
from hpo.trialkeys import LoraConfig

_LAYERS = (nn.Linear, nn.Conv2d)
_ATTENTION = re.compile(r"(^|.*\.)\w*attn\w*\.(.*\.)?(qkv|kv|q|k|v|[qkv]_proj|proj|out_proj|to_\w+)$")
_INSIDE = ".parametrizations.weight."


class _LowRank(nn.Module):
    """W -> W + scale * U V. Starts as nothing: U is 0 (out, r); V (r, rest) as a linear layer is initialised."""

    def __init__(self, weight: Tensor, config: LoraConfig) -> None:
        super().__init__()
        rows = weight.shape[0]
        rank = min(config.r, rows, weight.numel() // rows)
        self._scale = config.alpha / config.r
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.empty(rank, weight.numel() // rows))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self._scale * (self.up @ self.down).view_as(weight)


def add_adapters(model: nn.Module, config: LoraConfig, classifier: nn.Module) -> list[nn.Parameter]:
    """Puts adapters on the layers that `config` names and returns their parameters.

    Raises:
        TrialError: the model has no such layers, or the filter is no regular expression.
    """
    inside = set(classifier.modules())
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _LAYERS) and m not in inside}
    chosen = _choose(layers, config)
    if not chosen:
        raise TrialError(
            f"optim.lora.filter {config.filter} matches no linear or convolution layer of this model; its layers are "
            f"named like {', '.join(list(layers)[-4:]) or 'nothing'}."
        )
    parameters: list[nn.Parameter] = []
    for layer in chosen:
        weight: Any = layer.weight
        adapter = _LowRank(weight, config)
        parametrize.register_parametrization(layer, "weight", adapter)
        parameters += adapter.parameters()
    return parameters


def _choose(layers: Mapping[str, nn.Module], config: LoraConfig) -> list[nn.Module]:
    if config.filter is None:
        attention = [layer for name, layer in layers.items() if _ATTENTION.match(name)]
        return attention or list(layers.values())[1:]  # the first one sees pixels
    try:
        patterns = [re.compile(f"(?:{text})$") for text in config.filter]
    except re.error as error:
        raise TrialError(f"optim.lora.filter {config.filter} is not a regular expression ({error}).") from None
    return [layer for name, layer in layers.items() if any(pattern.search(name) for pattern in patterns)]


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights in timm's names, as they are used: adapters merged into what they adapt."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if _INSIDE not in name}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weight: Any = module.weight
            weights[f"{name}.weight"] = weight.detach()
    return weights


def unmerged_weights(model: nn.Module) -> dict[str, Tensor]:
    """What `merged_weights` does not show: the adapters, and the weights that they adapt."""
    return {name: tensor for name, tensor in model.state_dict().items() if _INSIDE in name}


def load_merged(model: nn.Module, merged: Mapping[str, Tensor], unmerged: Mapping[str, Tensor]) -> None:
    """Puts back what the two functions above gave.

    Raises:
        RuntimeError: they are of another model.
    """
    adapted = {name.split(_INSIDE)[0] + ".weight" for name in unmerged}
    model.load_state_dict({**{n: t for n, t in merged.items() if n not in adapted}, **unmerged})
