"""Does the search make sense? What can be seen in the sweep file and the number of its samples."""

from __future__ import annotations

import math

from hpo.check.dataset import DataFacts
from hpo.check.findings import Findings
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.requirements import possible_values
from hpo.search.asha import place_rungs, rung_epochs
from hpo.search.scheduler import warmup_epochs

_UP_TO_ONE = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "r2")  # metrics whose best value is 1
_FROM_ZERO = ("loss", "rmse", "mae")  # whose best value is 0
_RANKED = 100  # classes up to which roc_auc is reported, as in hpo.trial.task
_FEW_UPDATES = 5  # an epoch of fewer teaches little

_BATCH, _PIECE, _EPOCHS = "env.batch_size", "env.per_gpu_batch_size", "optim.max_epochs"


def check_settings(config: SweepConfig, facts: DataFacts, findings: Findings) -> None:
    """Everything that needs neither SLURM nor torch."""
    for check in (_check_metric, _check_target, _check_task, _check_batches):
        with findings.on("search"):
            check(config, facts)
    _look_at_rungs(config, findings)
    _look_at_trials(config, findings)
    _look_at_batches(config, facts, findings)
    _look_at_transfer(config, findings)


def _check_metric(config: SweepConfig, facts: DataFacts) -> None:
    if config.metric == "val_roc_auc" and facts.num_classes > _RANKED:
        raise UsageError(
            f"metric roc_auc is reported up to {_RANKED} classes and the data have {facts.num_classes}; take "
            "balanced_accuracy or f1_macro."
        )


def _check_target(config: SweepConfig, facts: DataFacts) -> None:
    target, name = config.tune.target, config.metric.removeprefix("val_")
    if target is None:
        return
    if name in _UP_TO_ONE and target > 1:
        percent = f" Did you mean {target / 100:g}?" if 1 < target <= 100 else ""
        raise UsageError(f"target {target:g} is never reached: {name} is at most 1.{percent}")
    if name in _FROM_ZERO and target <= 0:
        raise UsageError(f"target {target:g} is never reached: {name} is above 0; give a value that is, or none.")
    if name in _UP_TO_ONE[:-1] and target <= 0:
        raise UsageError(
            f"target {target:g} is reached by any trial: {name} is at least 0; give a higher one, or none."
        )


def _check_task(config: SweepConfig, facts: DataFacts) -> None:
    """Keys of classes where labels are numbers, and weights of classes that are too few or too many."""
    if config.task != "regression":
        for weights in filter(None, possible_values(config.space, "optim.focal_loss.alpha")):
            if len(weights) != facts.num_classes:
                raise UsageError(f"optim.focal_loss.alpha has {len(weights)} weights, and the data have "
                                 f"{facts.num_classes} classes; give one for each.")  # fmt: skip
        return
    if True in possible_values(config.space, "data.mixup.turn_on"):
        raise UsageError("data.mixup.turn_on: mixup mixes classes, and these labels are numbers; set it false.")
    if any(possible_values(config.space, "optim.label_smoothing")):
        raise UsageError("optim.label_smoothing acts on classes, and these labels are numbers; leave it out.")


def _check_batches(config: SweepConfig, facts: DataFacts) -> None:
    smallest = min(possible_values(config.space, _BATCH))
    if facts.train and smallest > facts.train:
        raise UsageError(
            f"{_BATCH} is at least {smallest:g}, more than the {facts.train} training samples: an epoch would be one "
            f"update; give {_fitting(facts.train)} or less."
        )
    pieces = [piece for piece in possible_values(config.space, _PIECE) if piece is not None]
    if pieces and min(pieces) > max(possible_values(config.space, _BATCH)):
        raise UsageError(
            f"{_PIECE} {min(pieces):g} is more than {_BATCH} {max(possible_values(config.space, _BATCH)):g}, which "
            "counts the images of a whole update; lower the one or raise the other."
        )


def _fitting(samples: int) -> int:
    """A power of two with some updates an epoch."""
    return int(2 ** max(0, math.floor(math.log2(max(1, samples / _FEW_UPDATES)))))


def _look_at_rungs(config: SweepConfig, findings: Findings) -> None:
    tune, longest = config.tune, config.max_epochs
    trials = f"{tune.num_trials} trials of up to {longest} epochs"
    if tune.scheduler != "ASHA":
        findings.ok("search", f"{trials}, none stopped early")
        return
    warmup = warmup_epochs(config)
    rungs = rung_epochs(place_rungs(longest, tune.reduction_factor, warmup, tune.grace_period), longest)
    if warmup >= longest:
        findings.refuse("search", UsageError(
            f"optim.warmup_steps lasts {warmup:g} epochs of {longest}: the learning rate never comes to its peak; "
            "lower it, or raise optim.max_epochs."))  # fmt: skip
    elif len(rungs) == 1:
        findings.warn("search", f"ASHA has no rung before epoch {longest}, the last, so it stops no trial early; raise "
                                "optim.max_epochs, or give scheduler_init_args: {grace_period: 1}.")  # fmt: skip
    if tune.num_trials < tune.reduction_factor:
        findings.warn("search", f"ASHA with reduction_factor {tune.reduction_factor} stops nobody among "
                                f"{tune.num_trials} trials; raise num_trials.")  # fmt: skip
    findings.ok("search", f"{trials}, rungs at {', '.join(map(str, rungs))}")


def _look_at_trials(config: SweepConfig, findings: Findings) -> None:
    tune, space = config.tune, config.space
    if space.dimensions and tune.num_trials > space.size:
        findings.warn("search", f"num_trials is {tune.num_trials}, but there are at most {space.size:g} different "
                                "configurations: some would be trained twice; lower it.")  # fmt: skip
    if tune.searcher == "bayes" and tune.startup_trials and tune.startup_trials >= tune.num_trials > 1:
        findings.warn("search", f"startup_trials {tune.startup_trials} leaves none of {tune.num_trials} trials to the "
                                "model; lower it, or say searcher: random.")  # fmt: skip
    points = len(config.points)
    if points >= tune.num_trials:
        findings.warn("search", f"{points} points_to_evaluate and the default are more than num_trials "
                                f"{tune.num_trials}: the last are never tried; raise num_trials.")  # fmt: skip


def _look_at_batches(config: SweepConfig, facts: DataFacts, findings: Findings) -> None:
    largest = max(possible_values(config.space, _BATCH))
    if facts.train and facts.train / largest < _FEW_UPDATES:
        findings.warn("search", f"{_BATCH} up to {largest:g} leaves {max(1, int(facts.train // largest))} updates an "
                                f"epoch with {facts.train} training samples; {_fitting(facts.train)} would give "
                                f"{_FEW_UPDATES} or more.")  # fmt: skip


def _look_at_transfer(config: SweepConfig, findings: Findings) -> None:
    ways = possible_values(config.space, "model.timm_image.pretrained")
    parts = [part for part in possible_values(config.space, "optim.peft") if part]
    if parts and all(way == "false" for way in ways):
        findings.warn("search", f"optim.peft {parts[0]} trains a part of a model that starts from scratch "
                                "(pretrained: false); give it pretrained weights.")  # fmt: skip
