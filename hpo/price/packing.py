"""`trials_per_gpu: auto`: how many trials share one GPU, by the memory that was measured of each kind.

Trials that are small for their GPU leave most of it idle; side by side they fill it. Nothing is guessed: without a
measurement on that GPU there is no answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from hpo.cluster.request import SlurmRequest
from hpo.cluster.share import Share
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.price.measured import Measured, Pace, Place

_CONTEXT = 600 * 2**20  # bytes of a CUDA context with its libraries, which torch's own numbers leave out
_USABLE = 0.9  # of a GPU's memory: the rest is lost between the pieces, and is for kernels that want room to work
_MOST = 8  # on one GPU; more only wait for each other


def pack(
    config: SweepConfig, request: SlurmRequest | None, host: tuple[int, int], say: Callable[[str], None]
) -> SweepConfig:
    """`config` with its `trials_per_gpu: auto` decided for hosts of `request` (None: this machine), and said aloud; any
    other as it is. `host`: CPUs and GPUs of one.

    Raises:
        UsageError: nothing was measured there, or not on a GPU. ClusterError: see Share.
    """
    cpus, gpus = host
    if config.tune.trials_per_gpu != "auto":
        return config
    if not gpus:
        say("trials_per_gpu auto: no GPUs, so that trials share the CPUs")
        return config
    alone = one_each(config)
    share, about = Share(alone), {"cpus": cpus, "gpus": gpus}
    per_trial, _ = share.divide(about)
    measured = Measured(alone, Place(request, per_trial, max(1, share.places(about))))
    count = count_trials([pace for pace in measured.paces if pace], measured.place.name)
    count = max(1, min(count, cpus // gpus))
    say(f"trials_per_gpu auto: {count}, by the memory of {len(measured.cases) - len(measured.missing)} kinds of trial")
    return dataclasses.replace(config, tune=dataclasses.replace(config.tune, gpus_per_trial=1 / count))


def one_each(config: SweepConfig) -> SweepConfig:
    """As it is measured: a whole GPU for a trial, where it is not decided how many share one."""
    if config.tune.trials_per_gpu != "auto":
        return config
    return dataclasses.replace(config, tune=dataclasses.replace(config.tune, trials_per_gpu=None, gpus_per_trial=None))


def count_trials(paces: Sequence[Pace], where: str) -> int:
    """Trials that fit on a GPU whichever of the measured kinds meet there.

    Raises:
        UsageError: there are none, or none of a GPU.
    """
    remedy = "check.py --probe measures it in a short job, check.py --cluster local --price here; or give a number"
    if not paces:
        raise UsageError(f"trials_per_gpu auto: no memory was measured at {where}; {remedy}.")
    bare = next((pace for pace in paces if not pace.device_bytes), None)
    if bare is not None:
        raise UsageError(f"trials_per_gpu auto: what was measured at {where} was on {bare.device}; {remedy}.")
    return max(1, min(_MOST, *(int(_USABLE * pace.device_bytes / (pace.memory_bytes + _CONTEXT)) for pace in paces)))
