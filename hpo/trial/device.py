"""Where a trial computes and in which precision. The one place that opens Accelerate, and resets it for the next."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

from hpo.errors import AcceleratorError, TrialError, UsageError, nearest
from hpo.trial.ranks import ALONE, Ranks, leave
from hpo.trial.threads import count_cpus
from hpo.trialkeys import ACCELERATORS, EnvConfig

ACCELERATOR_VARIABLE = "SLURMTUNE_ACCELERATOR"

_NO_GPU = ("", "-1", "NoDevFiles")  # what SLURM, Ray and people write where there is none

logger = logging.getLogger(__name__)


def open_accelerator(env: EnvConfig, ranks: Ranks = ALONE) -> Accelerator:
    """Accelerate for one trial on the device and in the precision of `env`; `close_accelerator` when it is done. Of
    several ranks each has the GPU of its number on the node.

    Raises:
        AcceleratorError: a GPU was given or asked for and torch cannot use it.
        TrialError: WORLD_SIZE announces ranks that are not ours.
    """
    on_gpu = _choose_gpu(env.accelerator, ranks)
    announced = int(os.environ.get("WORLD_SIZE") or 1)
    if announced != 1:
        raise TrialError(
            f"WORLD_SIZE is {announced}, but a trial starts its processes itself; unset it, and give num_processes."
        )
    _reset()
    ranks.join(on_gpu)
    # The environment would otherwise set accumulation, and a launcher's variables make ranks of what is one process.
    accumulation = GradientAccumulationPlugin(num_steps=1)
    with ranks.announced():
        accelerator = Accelerator(
            cpu=not on_gpu,
            mixed_precision=_choose_precision(env.precision, on_gpu),
            gradient_accumulation_plugin=accumulation,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
    if accelerator.num_processes != ranks.world:
        raise TrialError(
            f"Accelerate found {accelerator.num_processes} processes where the trial has {ranks.world}; "
            "unset the ACCELERATE_* variables of the environment."
        )
    if on_gpu:
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()  # batches keep their shape
    return accelerator


def name_device(accelerator: Accelerator) -> str:
    """The kind of device, as its maker names it: equal names have equal memory."""
    return torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type


def demand_determinism() -> None:
    """Has torch take deterministic algorithms, and warn where it knows none. Before the first use of a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def suspend_accelerator() -> list[dict[str, Any]]:
    """Makes room for another trial's accelerator; what `resume_accelerator` takes to go on with this one."""
    saved = [dict(state) for state in _states()]
    _reset()
    return saved


def resume_accelerator(saved: list[dict[str, Any]]) -> None:
    """In the place of a trial that is closed or suspended."""
    _reset()
    for state, content in zip(_states(), saved, strict=True):
        state.update(content)


def close_accelerator() -> None:
    """Lets the next trial of this process choose its own device and precision."""
    leave()
    _reset()


def set_threads() -> int:
    """Gives torch the CPUs of this trial."""
    count = count_cpus()
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


def _choose_gpu(accelerator: str, ranks: Ranks) -> bool:
    choice = os.environ.get(ACCELERATOR_VARIABLE) or accelerator
    if choice not in ACCELERATORS:
        words = ", ".join(ACCELERATORS)
        raise UsageError(
            f"{ACCELERATOR_VARIABLE} must be one of {words}, got {choice!r}.{nearest(choice, ACCELERATORS)}"
        )
    if choice == "cpu":
        return False
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "") not in _NO_GPU
    if not torch.cuda.is_available():
        if given or choice == "gpu":
            raise AcceleratorError(_explain_missing_gpu("torch finds none"))
        return False
    if ranks.many and torch.cuda.device_count() < ranks.here:
        raise AcceleratorError(
            f"the trial has {ranks.here} processes but {torch.cuda.device_count()} GPUs; set num_gpus and "
            "num_processes of resources_per_trial alike."
        )
    try:
        torch.zeros(1, device=f"cuda:{ranks.local}")
    except RuntimeError as error:
        raise AcceleratorError(_explain_missing_gpu(f"torch cannot use it ({str(error).splitlines()[0]})")) from error
    return True


def _explain_missing_gpu(what: str) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return (
        f"this trial was given a GPU (CUDA_VISIBLE_DEVICES={visible}) but {what}: torch {torch.__version__} {build}, "
        f"{_describe_driver()}; mend the node or the installation, or train on the CPU by env.accelerator: cpu in the "
        f"sweep or {ACCELERATOR_VARIABLE}=cpu in the environment."
    )


def _describe_driver() -> str:
    try:
        version = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        return f"NVIDIA driver loaded ({' '.join(version.split())})"
    except (OSError, IndexError):
        return "nvidia-smi present but no driver loaded" if shutil.which("nvidia-smi") else "no NVIDIA driver loaded"


def _choose_precision(precision: str, on_gpu: bool) -> str:
    """Accelerate's word for ours. fp16 without a GPU, and bf16 on one without it, become 32 bits, as in AutoMM."""
    has_bf16 = not on_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16" if on_gpu and has_bf16 else "no"
    if precision == "16" and not on_gpu:
        logger.warning("env.precision 16 needs a GPU; training in 32 bits on the CPU")
        return "no"
    if precision == "bf16" and not has_bf16:
        logger.warning("env.precision bf16 is not supported by %s; training in 32 bits", torch.cuda.get_device_name())
        return "no"
    return {"32": "no", "bf16": "bf16", "16": "fp16"}[precision]


def _states() -> list[dict[str, Any]]:
    """Accelerate's own: each is shared by all objects of its class, and held by those that outlive a reset."""
    return [cls._shared_state for cls in (PartialState, AcceleratorState, GradientState)]


def _reset() -> None:
    """Accelerate keeps precision and device in class attributes for the life of the process (accelerate issue 1131)."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
