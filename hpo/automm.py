"""AutoMM's keys that are none of a trial here: what each is, and which values say what happens here anyway.

None is accepted and ignored. A key below is taken with the values listed, since with them it changes nothing; any
other value, and any key with an empty list, is refused with the reason. `env.num_gpus`, `optim.top_k` and
`optim.top_k_average_method` are the predictor's own, see hpo.predictor.document.
"""

from __future__ import annotations

from typing import Any

from hpo.errors import UsageError

_SPELLINGS = {
    "optimization": "optim",
    "optim.loss_function": "optim.loss_func",
    "env.num_workers_evaluation": "env.num_workers_inference",
    "env.eval_batch_size_ratio": "env.inference_batch_size_ratio",
    "data.label.numerical_label_preprocessing": "data.label.numerical_preprocessing",
    "model.timm_image.max_img_num_per_col": "model.timm_image.max_image_num_per_column",
}
_PER_EPOCH = "trials validate once after each epoch, so that a rung is a number of epochs"
_ONE_IMAGE = "an image column holds one RGB image a row, and each column has features of its own"
_LAYER_NORM = "layers are normalised by layer_norm"
_NO_TEXT = "text is not modelled, only images, numbers and categories"
_LEMDA = "it learns augmentations of joined features; images have train_transforms, mixup and random erasing"
_LIGHTNING = "it is Lightning's; Accelerate trains here"
_DEEPSPEED = "one trial trains on one GPU, without DeepSpeed"

KEYS: dict[str, tuple[tuple[Any, ...], str]] = {  # key -> values that change nothing, why not others
    "model.fusion_mlp.weight": ((0, None), "the joined model alone is trained, without a head for each part"),
    "model.fusion_mlp.adapt_in_features": ((None,), "each part keeps its width"),
    "model.fusion_mlp.normalization": (("layer_norm",), _LAYER_NORM),
    "model.numerical_mlp.normalization": (("layer_norm",), _LAYER_NORM),
    "model.numerical_mlp.merge": (("concat",), "numbers are one vector"),
    "model.numerical_mlp.d_token": ((), "numbers are one vector"),
    "model.numerical_mlp.embedding_arch": ((None,), "numbers are one vector"),
    "model.categorical_mlp.normalization": (("layer_norm",), _LAYER_NORM),
    "model.ft_transformer": ((), "a table's columns go through model.numerical_mlp and model.categorical_mlp"),
    "model.fusion_transformer": ((), "model.fusion_mlp joins images and table"),
    "model.hf_text": ((), _NO_TEXT),
    "model.clip": ((), _NO_TEXT),
    "data.text": ((), _NO_TEXT),
    "data.templates": ((), _NO_TEXT),
    "data.document": ((), "scanned documents are not modelled, only photographs"),
    "distiller": ((), "distillation is not available"),
    "matcher": ((), "matching is not available, only classes and numbers are"),
    "data.categorical.convert_to_text": ((False,), _NO_TEXT),
    "data.numerical.convert_to_text": ((False,), _NO_TEXT),
    "data.numerical.scaler_with_mean": ((True,), "numbers are standardised by the training split"),
    "data.numerical.scaler_with_std": ((True,), "numbers are standardised by the training split"),
    "optim.lr_choice": (
        ("layerwise_decay",),
        "optim.lr_decay (by layer) and optim.lr_mult (of the classifier) both act, at 1 not at all",
    ),
    "optim.max_steps": ((-1,), "trainings are counted in epochs: use optim.max_epochs"),
    "optim.val_check_interval": ((1, 1.0), _PER_EPOCH),
    "optim.check_val_every_n_epoch": ((1,), _PER_EPOCH),
    "optim.skip_final_val": ((False,), _PER_EPOCH),
    "optim.track_grad_norm": ((-1,), _LIGHTNING),
    "optim.log_every_n_steps": ((), _PER_EPOCH),
    "optim.lora.module_filter": ((None,), "optim.lora.filter names layers by their whole path"),
    "optim.lora.conv_lora_expert_num": ((8,), "it belongs to conv_lora, which is Segment Anything's"),
    "optim.focal_loss.reduction": (("mean",), "a batch's loss is its mean"),
    "optim.cross_modal_align": ((None,), _ONE_IMAGE),
    "optim.cross_modal_align_weight": ((0,), _ONE_IMAGE),
    "optim.automatic_optimization": ((True,), _LIGHTNING),
    "optim.lemda": ((), _LEMDA),
    "optim.lemda.turn_on": ((False,), _LEMDA),
    "env.num_nodes": ((1,), "a trial stays on one node; a sweep takes several with slurm={'nodes': 2}"),
    "env.inference_batch_size_ratio": ((), "evaluation uses the training's batches"),
    "env.num_workers_inference": ((), "evaluation uses env.num_workers"),
    "env.fast_dev_run": ((False,), _LIGHTNING),
    "env.deterministic": ((False,), "batches and augmentation follow from the seed; CUDA's kernels are not forced"),
    "env.auto_select_gpus": ((True,), "trials are placed by Ray"),
    "env.strategy": ((), _LIGHTNING),
    "env.deepspeed_allgather_size": ((), _DEEPSPEED),
    "env.deepspeed_allreduce_size": ((), _DEEPSPEED),
    "env.compile.mode": (("default",), "the others record CUDA graphs or time kernels on each node anew"),
    "env.compile.dynamic": ((False,), "a batch keeps its shape, so that code made for that shape serves all of them"),
    "env.compile.backend": (("inductor",), "inductor is what torch.compile keeps from one process to the next"),
    "model.timm_image.mix_choice": (("all_logits", "all_images"), _ONE_IMAGE),
    "model.timm_image.val_transforms": (
        (["resize_shorter_side", "center_crop"],),
        "evaluation takes what is not random in train_transforms, or the middle square",
    ),
    "model.timm_image.image_chan_num": ((3,), _ONE_IMAGE),
    "model.timm_image.use_learnable_image": ((False,), _ONE_IMAGE),
    "model.timm_image.max_image_num_per_column": ((1,), _ONE_IMAGE),
    "data.image.missing_value_strategy": (
        ("skip",),
        "a row with an unreadable image is left out and listed; what stands for a missing one is learned",
    ),
    "data.label.numerical_preprocessing": (("standardscaler",), "numbers are standardised by the training split"),
    "data.mixup.mode": (("batch",), "a batch is mixed by one share"),
    "data.mixup.cutmix_minmax": ((None,), "boxes follow from data.mixup.cutmix_alpha"),
    "data.mixup.label_smoothing": ((), "optim.label_smoothing smooths mixed labels too"),
}

_SCALED = "it scales activations of text transformers; lora does what it does for images"
_CONV_LORA = "it is made for Segment Anything; lora adapts convolutions too"
VALUES: dict[str, dict[str, str]] = {  # key of ours -> AutoMM's values that it does not take, and why
    "optim.peft": {"ia3": _SCALED, "ia3_bias": _SCALED, "ia3_norm": _SCALED, "ia3_lora": _SCALED,
                   "ia3_lora_bias": _SCALED, "ia3_lora_norm": _SCALED, "conv_lora": _CONV_LORA},
    "optim.lr_schedule": {"multi_step": "AutoMM's drops at epochs 30 and 55 whatever max_epochs is"},
    "optim.loss_func": {"bcewithlogitsloss": "it is for numbers in 0..1; label those as two classes",
                        "mse": "auto is the squared error of numbers", "crossentropyloss": "auto is that of classes"},
    "env.precision": {"64": "it is of no use to images; 32 is the most"},
}  # fmt: skip


def spelt(name: str) -> str:
    """AutoMM's key `name` as AutoMM spells it today."""
    first, dot, rest = name.partition(".")
    name = f"{_SPELLINGS.get(first, first)}{dot}{rest}"
    return _SPELLINGS.get(name, name)


def find_key(name: str) -> str | None:
    """The key of the list above that `name` is, or lies below."""
    today = spelt(name)
    return max((key for key in KEYS if today == key or today.startswith(f"{key}.")), key=len, default=None)


def changes_nothing(name: str, value: Any) -> bool:
    """Whether `name` is a key of the list above with a value that says what happens here anyway.

    Raises:
        UsageError: it is one of the list, with another value.
    """
    key = find_key(name)
    if key is None:
        return False
    accepted, _ = KEYS[key]
    if spelt(name) == key and any(value == item and _alike(value, item) for item in accepted):
        return True
    require_ours(name, value)
    return False


def _alike(a: Any, b: Any) -> bool:
    """Python takes True for 1; a person does not."""
    return isinstance(a, bool) == isinstance(b, bool)


def require_ours(name: str, *value: Any) -> None:
    """Refuses a key of AutoMM's that is none of ours, with the reason.

    Raises:
        UsageError: it is such a key.
    """
    key = find_key(name)
    if key is None:
        return
    accepted, reason = KEYS[key]
    given = f"{name}={value[0]!r}" if value else name
    only = f" (only {' or '.join(repr(item) for item in accepted)} is)" if accepted and spelt(name) == key else ""
    raise UsageError(f"AutoMM's {given} is not supported{only}: {reason}.")
