"""The tasks of the benchmark: recorded or surrogate learning curves behind one face.

A task has knobs (the space), a longest training, and worlds: one world a run, because a recorded curve is given out
once in a run (repeats would reward a searcher for suggesting the same row again). Errors are to be made small.
Needs numpy, and onnxruntime for LCBench; nothing of slurmtune, so that peers can run it in environments of their own.
"""

from __future__ import annotations

import functools
import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_BEST_OF = 4000  # random configurations from which a surrogate task's scale is taken
Config = dict[str, Any]


@dataclass(frozen=True)
class Knob:
    """One hyperparameter: `low` to `high`, both included, or one of `options`."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    options: tuple[Any, ...] = ()

    def to_unit(self, value: Any) -> float:
        if self.options:
            return self.options.index(value) / (len(self.options) - 1)
        a, b, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (v - a) / (b - a)

    def from_unit(self, unit: float) -> Any:
        if self.options:
            return self.options[min(int(unit * len(self.options)), len(self.options) - 1)]
        a, b = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = a + unit * (b - a)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return round(value) if self.integer else value


@dataclass(frozen=True)
class Curve:
    """`errors` after each epoch (NaN ends the training) and the `seconds` of each epoch."""

    errors: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Task:
    """`cost` is the mean seconds of a full training, `best` the smallest error known, `usual` the median of a random
    configuration's best: they turn an error into a normalised regret. `split` is choose or judge."""

    name: str
    split: str
    knobs: tuple[Knob, ...]
    max_epochs: int
    cost: float
    best: float
    usual: float
    start: Callable[[], Callable[[Config], Curve]] = field(compare=False)
    epochs_knob: str = ""

    def sample(self, rng: np.random.Generator) -> Config:
        return {knob.name: knob.from_unit(rng.random()) for knob in self.knobs}

    def regret(self, error: float) -> float:
        return (error - self.best) / (self.usual - self.best)


class _Rows:
    """A table in one run: the row next to what is asked for, each row once as long as there are any."""

    def __init__(self, knobs: Sequence[Knob], units: np.ndarray, curves: Sequence[Curve]) -> None:
        self._knobs, self._units, self._curves = knobs, units, curves
        self._used = np.zeros(len(units))

    def __call__(self, config: Config) -> Curve:
        point = np.array([knob.to_unit(config[knob.name]) for knob in self._knobs])
        distance = ((self._units - point) ** 2).sum(1) + self._used * 1e6
        row = int(distance.argmin())
        self._used[row] += 1
        return self._curves[row]


def _table(name: str, split: str, knobs: Sequence[Knob], rows: Sequence[tuple[Config, Curve]], **more: Any) -> Task:
    units = np.array([[knob.to_unit(config[knob.name]) for knob in knobs] for config, _ in rows])
    curves = [curve for _, curve in rows]
    finite = [np.nanmin(c.errors) if np.isfinite(c.errors).any() else np.inf for c in curves]
    whole = [c.seconds.sum() for c in curves if np.isfinite(c.errors).all()]
    return Task(name, split, tuple(knobs), max(len(c.errors) for c in curves), float(np.mean(whole)),
                float(np.min(finite)), float(np.median([f for f in finite if f < np.inf])),
                lambda: _Rows(knobs, units, curves), **more)  # fmt: skip


def load_convnext(path: Path, split: str = "choose") -> Task:
    """A jsonl file of opda's form: hyperparameters and learning_curve [{time, epoch, top_1}] a line. Runs that
    diverged end with NaN. Knobs are read off the rows' keys, so that curves of our own in this form can be given."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [(_convnext_config(r), _convnext_curve(r)) for r in records]
    mean = float(np.mean([c.seconds.mean() for _, c in rows if np.isfinite(c.seconds).all() and len(c.seconds) > 1]))
    rows = [(config, Curve(c.errors, np.where(np.isfinite(c.seconds), c.seconds, mean))) for config, c in rows]
    knobs = [_knob(name, [config[name] for config, _ in rows]) for name in rows[0][0]]
    knobs = [knob for knob in knobs if knob.options or knob.high > knob.low]
    return _table(path.name.split(".")[0], split, knobs, rows, epochs_knob="epochs")


def _convnext_config(record: Mapping[str, Any]) -> Config:
    config = {k: v for k, v in record.items() if k not in ("iteration", "nan_train_loss", "learning_curve", "seed")}
    if "lr_peak_epoch" in config:
        config["lr_peak"] = config.pop("lr_peak_epoch") / config["epochs"]
    return config


def _convnext_curve(record: Mapping[str, Any]) -> Curve:
    points = record["learning_curve"]
    errors = [1 - point["top_1"] if point["top_1"] is not None else math.nan for point in points]
    seconds = np.diff([0.0, *(point["time"] for point in points)])
    if len(points) < record["epochs"]:  # it diverged in the epoch that is missing
        errors, seconds = [*errors, math.nan], np.append(seconds, seconds.mean() if len(points) else math.nan)
    return Curve(np.array(errors), seconds)


def _knob(name: str, values: Sequence[Any]) -> Knob:
    if any(isinstance(value, (str, bool)) for value in values) or (len(set(values)) <= 8 and name != "epochs"):
        return Knob(name, options=tuple(sorted(set(values))))
    low, high = min(values), max(values)
    log = low > 0 and high / low > 50
    return Knob(name, low, high, log, all(isinstance(value, int) for value in values))


def load_taskset(path: Path, split: str = "choose") -> Task:
    """A json(.gz) file of TaskSet's form: [{hp: {...}, valid: {loss: [...]}}]. Each epoch costs one second. One knob
    a hyperparameter, by magnitude; momenta as their distance from 1."""
    content = path.read_bytes()
    records = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    rows = []
    for record in records:
        config = {k: (max(1 - v, 1e-12) if k.startswith("beta") else v) for k, v in record["hp"].items()}
        loss = np.array([math.nan if v is None else v for v in record["valid"]["loss"]], float)[1:]
        cut = int(np.argmax(~np.isfinite(loss))) + 1 if not np.isfinite(loss).all() else len(loss)
        rows.append((config, Curve(loss[:cut], np.ones(cut))))
    knobs = [Knob(k, min(c[k] for c, _ in rows), max(c[k] for c, _ in rows), log=True) for k in rows[0][0]]
    return _table("taskset-" + path.name.split(".")[0], split, knobs, rows)


class LCBench:
    """The YAHPO surrogate of LCBench: 7 hyperparameters, 50 epochs, validation error and seconds, 34 data sets."""

    EPOCHS = 50
    _COLUMNS = (
        "epoch",
        "batch_size",
        "learning_rate",
        "momentum",
        "weight_decay",
        "num_layers",
        "max_units",
        "max_dropout",
    )  # in the order that the network was trained with, which config_space.json has not
    _SCALES = Path(__file__).with_name("lcbench_scales.json")  # cost, best and usual of each task, for a quick start

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        space = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        known = next(h["choices"] for h in space if h["name"] == "OpenML_task_id")
        self.ids = [task for task in self._codes if task in known]
        self.knobs = tuple(
            Knob(h["name"], h["lower"], h["upper"], h["log"], h["type"] == "uniform_int")
            for h in space
            if h["name"] not in ("OpenML_task_id", "epoch")
        )

    def curves(self, task: str, configs: Sequence[Config]) -> tuple[np.ndarray, np.ndarray]:
        """Errors and seconds, each (configurations, EPOCHS)."""
        n, epochs = len(configs), np.arange(1, self.EPOCHS + 1, dtype=np.float32)
        columns = [
            np.tile(epochs, n)
            if name == "epoch"
            else np.repeat(np.array([config[name] for config in configs], np.float32), self.EPOCHS)
            for name in self._COLUMNS
        ]
        codes = np.full((n * self.EPOCHS, 1), self._codes[task], np.int32)
        [out] = self._session.run(None, {"x_cat": codes, "x_cont": np.stack(columns, 1)})
        out = out.reshape(n, self.EPOCHS, -1)
        seconds = np.diff(np.maximum.accumulate(out[:, :, 0], 1), axis=1, prepend=0)
        return 1 - out[:, :, 1] / 100, np.maximum(seconds, 1e-3)

    def task(self, name: str, split: str) -> Task:
        scales = json.loads(self._SCALES.read_text()) if self._SCALES.exists() else {}
        if name not in scales:
            scales[name] = self._scale(name)
            self._SCALES.write_text(json.dumps(scales, indent=1) + "\n")

        def world(config: Config) -> Curve:
            one, cost = self.curves(name, [config])
            return Curve(one[0], cost[0])

        return Task(f"lcbench-{name}", split, self.knobs, self.EPOCHS, *scales[name], lambda: world)

    def _scale(self, name: str) -> tuple[float, float, float]:
        """Cost, best and usual of random configurations."""
        units = np.random.default_rng(0).random((_BEST_OF, len(self.knobs)))
        sample = [{k.name: k.from_unit(u) for k, u in zip(self.knobs, row, strict=True)} for row in units]
        found = [self.curves(name, sample[i : i + 500]) for i in range(0, _BEST_OF, 500)]
        errors, seconds = (np.concatenate(parts) for parts in zip(*found, strict=True))
        lowest = errors.min(1)
        return float(seconds.sum(1).mean()), float(lowest.min()), float(np.median(lowest))


@functools.lru_cache
def load_tasks(folder: Path, names: tuple[str, ...] = (), further: tuple[Path, ...] = ()) -> tuple[Task, ...]:
    """All tasks below `folder` (convnext/, taskset/, lcbench/) and those of the `further` files, in a fixed order;
    with `names` those whose name or split is among them."""
    makers: list[tuple[str, str, Callable[[], Task]]] = []
    for path in sorted((folder / "convnext").glob("*.jsonl")):
        makers.append((path.name.split(".")[0], "choose", functools.partial(load_convnext, path)))
    for path in sorted((folder / "taskset").glob("*.json*")):
        makers.append(("taskset-" + path.name.split(".")[0], "choose", functools.partial(load_taskset, path)))
    if (folder / "lcbench" / "model.onnx").exists():
        lcbench = LCBench(folder / "lcbench")
        for place, name in enumerate(lcbench.ids):
            split = "choose" if place < 17 else "judge"
            makers.append((f"lcbench-{name}", split, functools.partial(lcbench.task, name, split)))
    for path in further:
        load = load_convnext if ".jsonl" in path.name else load_taskset
        prefix = "" if ".jsonl" in path.name else "taskset-"
        makers.append((prefix + path.name.split(".")[0], "judge", functools.partial(load, path, "judge")))
    return tuple(make() for name, split, make in makers if not names or name in names or split in names)
