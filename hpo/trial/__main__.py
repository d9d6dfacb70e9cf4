"""Trains one configuration alone, without Ray:

python -m hpo.trial --data DATA --out DIR --set model.timm_image.checkpoint_name=test_resnet --set optim.lr=0.005
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import SlurmtuneError, UsageError
from hpo.layout import read_json, write_json
from hpo.trialconfig import TrialConfig, canonical_key, known_keys

if TYPE_CHECKING:
    from hpo.trial.loop import TrialResult

_INTERRUPTED = 130
_COMMA = re.compile(r",(?![^(]*\))")  # none between parentheses: color_jitter(0.4,0.4)


def main(argv: list[str] | None = None) -> int:
    try:
        return _run(build_parser().parse_args(argv))
    except SlurmtuneError as error:
        sys.stderr.write(f"hpo.trial: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("hpo.trial: interrupted; the same command goes on from the last epoch\n")
        return _INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpo.trial",
        description="Train one configuration alone, without Ray. The same command goes on where it was cut off.",
        epilog="example: python -m hpo.trial --data DATA --out trial --set optim.lr=0.005 "
        "--set model.timm_image.checkpoint_name=test_resnet --set model.timm_image.pretrained=false",
    )
    parser.add_argument("--data", type=Path, required=True, help="directory that launch/prepare.py made")
    parser.add_argument("--out", type=Path, required=True, help="directory of the trial: log.txt, checkpoint/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one key of the configuration")
    parser.add_argument("--config", type=Path, metavar="FILE.json", help="flat keys; --set wins over it")
    parser.add_argument("--metric", help="chooses the best epoch (val_accuracy; regression: val_rmse)")
    parser.add_argument("--mode", choices=("max", "min"), help="its direction; by default that of its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that train it together, a GPU each (1)")
    parser.add_argument("--num-to-keep", type=int, default=3, metavar="N", help="best epochs that are kept (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object an epoch, and one for the result")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = _read_config(arguments)
    from hpo.trial.loop import train

    write_result = _as_json if arguments.json else _as_text

    def report(metrics: dict[str, Any]) -> bool:
        _say(write_result(metrics, config.optim.max_epochs))
        return True

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "params.json", config.to_flat(_has_table(arguments.data)))
    result = train(config, arguments.data, arguments.out, report, arguments.processes)
    _say(_summary(result, config.metric, arguments.json))
    return 0


def _read_config(arguments: argparse.Namespace) -> TrialConfig:
    values: dict[str, Any] = {}
    if arguments.config:
        read = read_json(arguments.config)
        if not isinstance(read, dict):
            raise UsageError(f"{arguments.config} must hold one JSON object of flat keys.")
        values = {canonical_key(key): value for key, value in read.items()}
    values |= dict(_parse_assignment(text) for text in arguments.set)
    if arguments.processes < 1:
        raise UsageError(f"--processes must be at least 1, got {arguments.processes}.")
    if arguments.num_to_keep < 1:
        raise UsageError(f"--num-to-keep must be at least 1, got {arguments.num_to_keep}.")
    metric = arguments.metric or _default_metric(arguments.data)
    mode = arguments.mode or ("min" if metric.endswith(("loss", "rmse", "mae")) else "max")
    others = {"metric": metric, "mode": mode, "seed": arguments.seed, "num_to_keep": arguments.num_to_keep}
    return TrialConfig.from_flat(values, **others)


def _parse_assignment(text: str) -> tuple[str, Any]:
    """KEY=VALUE with VALUE as JSON, or as plain text where it is none."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes KEY=VALUE, got {text!r}.")
    key = canonical_key(name)
    if _is_list(key) and not value.startswith("[") and value.lower() not in ("none", "null"):
        return key, [word.strip() for word in _COMMA.split(value) if word.strip()]
    try:
        return key, json.loads(value)
    except ValueError:
        return key, None if value.lower() == "none" else value


def _is_list(key: str) -> bool:
    return str(known_keys()[key].type).startswith("list")


def _default_metric(data: Path) -> str:
    from hpo.data.read import describe

    return "val_accuracy" if describe(data).task == "classification" else "val_rmse"


def _has_table(data: Path) -> bool:
    from hpo.data.read import describe

    return describe(data).columns is not None


def _as_text(metrics: dict[str, Any], max_epochs: int) -> str:
    shown = [name for name in metrics if name == "train_loss" or name.startswith("val_")]
    values = " ".join(f"{name} {metrics[name]:.4f}" for name in shown)
    left = metrics["seconds"] * (max_epochs - metrics["epoch"])
    timing = f"{metrics['seconds']:.1f} s ({metrics['images_per_second']:.0f} images/s), {left:.0f} s left"
    return f"epoch {metrics['epoch']}/{max_epochs} {values} lr {metrics['lr']:.3g} {timing}"


def _as_json(metrics: dict[str, Any], _: int) -> str:
    return json.dumps({key: None if _is_nan(value) else value for key, value in metrics.items()}, allow_nan=False)


def _summary(result: TrialResult, metric: str, as_json: bool) -> str:
    best = None if math.isnan(result.best_value) else result.best_value
    if as_json:
        fields = {"reason": result.reason, "epoch": result.epoch, "best_epoch": result.best_epoch}
        return json.dumps({**fields, "metric": metric, "best_value": best})
    value = f"best {metric} {best:.4f} at epoch {result.best_epoch}" if best is not None else f"no finite {metric}"
    return f"finished after epoch {result.epoch} ({result.reason}): {value}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
