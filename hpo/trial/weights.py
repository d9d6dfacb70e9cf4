"""Pretrained weights: found without touching the network unless that is asked for."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hpo.errors import WeightsError

# What timm looks for on the Hugging Face hub, in its order; a cfg may name another file.
_FILES = ("model.safetensors", "pytorch_model.bin")
_SAFE_TWINS = {"open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # under which training scripts keep the weights
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

logger = logging.getLogger(__name__)


def is_weights_file(pretrained: str) -> bool:
    """Whether the key `pretrained` names a file rather than a way."""
    return pretrained not in ("auto", "true", "false")


def find_pretrained(name: str, pretrained: str) -> dict[str, Any]:
    """The arguments with which timm.create_model loads the weights of `name`: none for a start from scratch.

    'auto' takes what the local caches of Hugging Face and torch hold, 'true' may download.

    Raises:
        WeightsError: timm has weights, the caches do not, and downloading was not asked for.
    """
    cfg = timm.get_pretrained_cfg(name)
    if pretrained == "false":
        return {}
    if cfg is None or not cfg.has_weights:
        logger.info("timm has no pretrained weights of %s: starting from scratch", name)
        return {}
    cached = cached_file(cfg)
    if cached:
        logger.info("pretrained weights of %s from the cache: %s", name, cached)
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(cached)}}
    if pretrained == "true":
        return {"pretrained": True}
    raise WeightsError(
        f"no pretrained weights of {name} ({cfg.hf_hub_id or cfg.url}) in the local cache; {_remedy(name)}"
    )


def explain_failed_download(name: str, error: Exception) -> WeightsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    kind = type(error).__name__
    return WeightsError(f"pretrained weights of {name} cannot be downloaded ({kind}: {reason}); {_remedy(name)}")


def _remedy(name: str) -> str:
    return (
        f"run `python launch/prefetch.py --model {name}` on a machine with network and the same HF_HOME, "
        "or start from scratch with model.timm_image.pretrained: false."
    )


def hub_names(cfg: Any) -> list[tuple[str, str | None, str]]:
    """Repository, revision and file on the hub under which timm looks for the weights of `cfg`, in its order."""
    named = cfg.hf_hub_filename
    names = (_SAFE_TWINS.get(named, f"{Path(named).stem}.safetensors"), named) if named else _FILES
    repository, _, revision = cfg.hf_hub_id.partition("@")
    return [(repository, revision or None, name) for name in names]


def cached_file(cfg: Any) -> Path | None:
    """The file of these weights in the cache of Hugging Face, else in that of torch.hub."""
    from huggingface_hub import try_to_load_from_cache

    if cfg.hf_hub_id:
        for repository, revision, name in hub_names(cfg):
            found = try_to_load_from_cache(repository, name, revision=revision)
            if isinstance(found, str):
                return Path(found)
    if cfg.url:
        found_file = Path(torch.hub.get_dir()) / "checkpoints" / Path(cfg.url).name
        return found_file if found_file.is_file() else None
    return None


def load_weights_file(model: nn.Module, path: Path) -> None:
    """Loads weights in timm's names from a local file into `model`; a classifier of another size stays as it is.

    Raises:
        WeightsError: no such file, not a file of weights, or the weights of another model.
    """
    weights = _image_part(read_weights_file(path))
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt:  # the model's own way to take other image sizes and older names
        weights = adapt(weights, model)
    own = model.state_dict()
    heads = _head_names(model)
    for name in [name for name in weights if name.startswith(heads)]:
        if name not in own or own[name].shape != weights[name].shape:
            logger.info("%s: %s has another size than this data needs and is dropped", path.name, name)
            del weights[name]
    missing = [name for name in own if name not in weights and not name.startswith(heads)]
    unfit = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    if missing or unfit:
        raise WeightsError(
            f"model.timm_image.pretrained: {path} holds the weights of another model: {len(missing)} are missing, "
            f"{len(unfit)} do not fit (first: {(missing + unfit)[0]}); name the model that it was saved from."
        )
    model.load_state_dict(weights, strict=False)
    logger.info("weights from %s", path)


def _image_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a model of images and a table, see hpo.trial.fusion, its timm model's; others as they are."""
    if not any(name.startswith("fusion_mlp.") for name in weights):
        return weights
    return {name.removeprefix("image."): value for name, value in weights.items() if name.startswith("image.")}


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors, .pth, .pt or .bin file, out of a training script's wrapping if there is one.

    Raises:
        WeightsError: no such file, or it is not a plain file of weights. Nothing in it is ever executed.
    """
    if path.suffix not in _SUFFIXES or not path.is_file():
        raise WeightsError(
            f"model.timm_image.pretrained: {path} is not a weights file ({', '.join(_SUFFIXES)}); "
            "give auto, true, false or the path of one."
        )
    try:
        content = _read(path)
        wrapper = next((name for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
        tensors = content[wrapper] if wrapper else content
        return {name.removeprefix("module."): value for name, value in tensors.items() if isinstance(value, Tensor)}
    except (
        OSError,
        RuntimeError,
        ValueError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"model.timm_image.pretrained: {path} is not a readable weights file ({reason}).") from None


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _head_names(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the classifier's parameters."""
    classifier: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ("head", "fc", "classifier")
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return tuple(f"{name}." for name in names)
