"""A timm model by name, fitted to the data: outputs, image size, regularisation, weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from timm.layers import DropPath
from torch import nn

from hpo.errors import SlurmtuneError, TrialError, nearest
from hpo.trial.weights import explain_failed_download, find_pretrained, is_weights_file, load_weights_file
from hpo.trialkeys import ModelConfig

if TYPE_CHECKING:
    from hpo.data.shards import ShardSet

_NORMS = {
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "inception": (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """What a model is fed: square images of `size` pixels a side, normalised by `mean` and `std` of pixels in 0..1,
    resampled by `interpolation`, see hpo.trial.render."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"


def choose_image_size(config: ModelConfig, shards: ShardSet) -> int:
    """The side in pixels: the configuration's, else that of raw shards, else the model's own.

    Raises:
        TrialError: timm has no such model.
    """
    return image_size_of(config, min(shards.image_shape[:2]) if shards.image_shape else None)


def image_size_of(config: ModelConfig, side: int | None) -> int:
    """As choose_image_size; `side`: of raw shards, None where images are encoded."""
    if config.image_size or side:
        return config.image_size or int(side or 0)
    cfg = _get_cfg(config.checkpoint_name)
    return cfg.input_size[-1] if cfg else 224


def create_model(config: ModelConfig, outputs: int, size: int, with_weights: bool = True) -> tuple[nn.Module, Input]:
    """The model on the CPU, its last layer with `outputs` outputs, and what it is fed.

    `with_weights` False leaves pretrained weights alone, for a trial that loads its own checkpoint.

    Raises:
        TrialError, WeightsError: see create_backbone.
    """
    return create_backbone(config, outputs, size, with_weights)[:2]


def create_backbone(
    config: ModelConfig, outputs: int, size: int, with_weights: bool = True
) -> tuple[nn.Module, Input, int]:
    """As create_model, and how many values the model gives for an image; with 0 outputs, its features.

    Raises:
        TrialError: no such model, or it cannot be built so: image size, drop_rate, drop_path_rate.
        WeightsError: see hpo.trial.weights.
    """
    name, pretrained = config.checkpoint_name, config.pretrained if with_weights else "false"
    cfg = _get_cfg(name)
    options: dict[str, Any] = {"num_classes": outputs}
    if cfg and cfg.fixed_input_size:  # a ViT's position embedding has to be told; a CNN takes any size
        options["img_size"] = size
    options |= {key: value for key in ("drop_rate", "drop_path_rate") if (value := getattr(config, key))}
    from_file = is_weights_file(pretrained)
    weights = {} if from_file else find_pretrained(name, pretrained)
    model = _build(name, options, weights)
    if from_file:
        load_weights_file(model, Path(pretrained).expanduser())
    data = resolve_model_data_config(model)
    mean, std = _NORMS[config.image_norm] if config.image_norm else (data["mean"], data["std"])
    width = _probe(model, config, outputs, size)
    return model, Input(size, tuple(mean), tuple(std), config.interpolation), width


def classifier_of(model: nn.Module) -> nn.Module:
    """The layers that give the outputs; a model made for distillation has two."""
    get_classifier: Any = model.get_classifier
    found = get_classifier()
    return nn.ModuleList(found) if isinstance(found, (tuple, list)) else found


def is_convolutional(model: nn.Module) -> bool:
    """Whether it computes by convolutions, which run faster with channels last; a ViT has one, for its patches."""
    return sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def _get_cfg(name: str) -> Any:
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        raise TrialError(f"model.timm_image.checkpoint_name: timm {timm.__version__} has no model {name!r}.{near}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        architecture = name.split(".")[0]
        known = timm.list_pretrained(f"{architecture}.*")
        raise TrialError(f"model.timm_image.checkpoint_name {name!r}: {error}{nearest(name, known)}") from None


def _build(name: str, options: dict[str, Any], weights: dict[str, Any]) -> nn.Module:
    downloads = bool(weights) and "pretrained_cfg_overlay" not in weights
    try:
        return timm.create_model(name, **options, **weights)
    except SlurmtuneError:
        raise
    except TypeError as error:  # timm passes what it does not know on to the model's constructor
        refused = next((key for key in options if f"'{key}'" in str(error)), None)
        if refused is None:
            raise
        raise TrialError(
            f"model.timm_image.{refused} is {options[refused]:g}, but {name} has no such option; set it to 0 for it."
        ) from None
    except (AssertionError, ValueError, RuntimeError) as error:
        if downloads:
            raise explain_failed_download(name, error) from error
        raise TrialError(f"{name} cannot be built with {_listed(options)}: {_first_line(error)}") from error
    except Exception as error:
        if downloads:  # each HTTP client has its own errors
            raise explain_failed_download(name, error) from error
        raise


def _probe(model: nn.Module, config: ModelConfig, outputs: int, size: int) -> int:
    """One image through the model, so that a size it cannot take is told now and on one line. What comes out counts.

    Also tells whether its stochastic depth is used at all: some models take the option and never come to it, and a
    sweep would search noise.
    """
    name, used = config.checkpoint_name, []
    paths = [module for module in model.modules() if isinstance(module, DropPath) and module.drop_prob]
    hooks = [path.register_forward_hook(lambda *_: used.append(True)) for path in paths]
    try:
        with torch.inference_mode():
            result = model.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise TrialError(
            f"{name} cannot take images of {size} pixels ({_first_line(error)}); "
            "choose another model.timm_image.image_size."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train()
    width = result.shape[-1] if isinstance(result, torch.Tensor) and result.ndim == 2 else 0
    if width == 0 or outputs not in (0, width):
        raise TrialError(f"{name} does not give {outputs} values for an image; choose an image classifier of timm.")
    if config.drop_path_rate and not used:
        raise _unused("drop_path_rate", config, "stochastic depth")
    dropout = getattr(model, "drop_rate", 0) or any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    if config.drop_rate and not dropout:
        raise _unused("drop_rate", config, "dropout")
    return width


def _unused(key: str, config: ModelConfig, what: str) -> TrialError:
    value, name = getattr(config, key), config.checkpoint_name
    return TrialError(f"model.timm_image.{key} is {value:g}, but {name} has no {what}; set it to 0 for this model.")


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
