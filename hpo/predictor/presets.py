"""AutoMM's presets for images: names to hyperparameters, and for their _hpo forms the search."""

from __future__ import annotations

from typing import Any

from hpo.errors import UsageError, nearest

_MODEL = "model.timm_image.checkpoint_name"
_SPACE: dict[str, Any] = {
    "optim.lr": {"loguniform": [1e-5, 1e-2]},
    "optim.optim_type": {"choice": ["adamw", "sgd"]},
    "optim.max_epochs": {"choice": list(range(5, 31))},
    "env.batch_size": {"choice": [16, 32, 64, 128, 256]},
}
_SEARCH = {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 512}
_FIXED: dict[str, dict[str, Any]] = {
    "medium_quality": {_MODEL: "mobilenetv3_large_100", "optim.lr": 4e-4},
    "high_quality": {_MODEL: "caformer_b36.sail_in22k_ft_in1k"},
    "best_quality": {_MODEL: "swin_large_patch4_window7_224", "env.per_gpu_batch_size": 1},
}
_SEARCHED: dict[str, dict[str, Any]] = {
    "medium_quality_hpo": {
        _MODEL: {"choice": ["mobilenetv3_large_100", "gluon_resnet18_v1b", "maxvit_rmlp_pico_rw_256.sw_in1k"]},
    },
    "high_quality_hpo": {
        _MODEL: {
            "choice": [
                "swin_base_patch4_window7_224",
                "convnext_base_in22ft1k",
                "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
                "caformer_b36.sail_in22k_ft_in1k",
            ]
        },
        "env.per_gpu_batch_size": 2,
    },
    "best_quality_hpo": {
        _MODEL: {
            "choice": [
                "swin_large_patch4_window7_224",
                "eva_large_patch14_336.in22k_ft_in22k_in1k",
                "vit_large_patch14_clip_336.openai_ft_in12k_in1k",
            ]
        },
        "env.per_gpu_batch_size": 1,
    },
}
_OTHER_NAMES = {"default": "high_quality", "default_hpo": "high_quality_hpo", "hpo": "high_quality_hpo"}
NAMES = (*_FIXED, *_SEARCHED, *_OTHER_NAMES)


def preset(name: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Hyperparameters, in the form of a sweep file, and hyperparameter_tune_kwargs (None: no search) of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    if name is None:
        return {}, None
    known = _OTHER_NAMES.get(name, name) if isinstance(name, str) else ""
    if known in _FIXED:
        return dict(_FIXED[known]), None
    if known in _SEARCHED:
        return {**_SPACE, **_SEARCHED[known]}, dict(_SEARCH)
    raise UsageError(f"presets must be one of {', '.join(NAMES)}, got {name!r}.{nearest(str(name), NAMES)}")
