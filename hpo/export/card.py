"""MODEL/README.md: what the model is, how good, made from what, and how to use it with timm alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm

from hpo.data.columns import Columns
from hpo.data.rows import columns_of
from hpo.results.read import Results, Row
from hpo.results.wording import configuration_yaml, count, value_text
from hpo.trial.middle import Middle
from hpo.trialconfig import TrialConfig

_MOST_CLASSES = 100
_MOST_SHOWN = 20


def render_card(results: Results, row: Row, meta: Mapping[str, Any], checked: str) -> str:
    """The model card in Markdown. `checked`: in words, how the exported model was compared with the trial."""
    name, columns = meta["model"], columns_of(meta)
    parts = [
        f"---\nlibrary_name: {'slurmtune' if columns else 'timm'}\ntags: [image-{meta['task']}, timm, slurmtune]\n---",
        f"# {results.name}: {name}" + (" and a table" if columns else ""),
        f"Trial {row.trial} of the sweep {results.name}, chosen among {count(len(results.rows), 'trial')} by "
        f"{meta['metric']}, epoch {meta['epoch']} of {row.max_epochs}.",
        _metrics(meta),
        _caution(results, row),
        f"## Use\n\n```python\n{_TABLE_EXAMPLE if columns else _example(meta)}```",
        _columns(columns),
        _preprocessing(meta),
        _classes(meta),
        f"## Origin\n\n{_origin(meta)}\n\n{checked}\n\nVersions: "
        + ", ".join(f"{package} {version}" for package, version in meta["versions"].items())
        + ".",
        f"## Configuration\n\n```yaml\n{configuration_yaml(row.params, results.constants)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_TABLE_EXAMPLE = """\
from pathlib import Path

from hpo.export.model import ExportedModel  # slurmtune's: timm's form holds models of images alone
from hpo.data.rows import open_table

model = ExportedModel(Path("MODEL"))
rows, _ = open_table(Path("table.csv"), model.table, model.policy)
for answer in model.predict(rows.load(number) for number in range(len(rows))):
    print(dict(zip(model.columns, answer)))
"""


def _columns(columns: Columns | None) -> str:
    if columns is None:
        return ""
    lines = [f"| {name} | image | paths relative to the table |" for name in columns.images]
    lines += [f"| {c.name} | numerical | mean {c.mean:.4g}, deviation {c.std:.4g} |" for c in columns.numerical]
    for c in columns.categorical:
        listed = ", ".join(c.categories[:_MOST_SHOWN]) + (" ..." if len(c.categories) > _MOST_SHOWN else "")
        lines.append(f"| {c.name} | categorical | {len(c.categories)}: {listed} |")
    return "\n".join(["Any cell may be empty.\n", "| column | | |", "|---|---|---|", *lines])


def _metrics(meta: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value_text(value)} |" for name, value in meta["metrics"].items() if name.startswith("val_")]
    return "\n".join(["| validation | |", "|---|---|", *rows])


def _caution(results: Results, row: Row) -> str:
    if row is not results.best or len(results.rows) < 2:
        return ""
    return (
        "These are the values by which this trial was chosen, so they flatter it a little: judge it on images that the "
        "search has not seen (`slurmtune evaluate`)."
    )


def _example(meta: Mapping[str, Any]) -> str:
    lines = [
        "import timm, torch",
        "from PIL import Image",
        "",
        'model = timm.create_model("local-dir:MODEL", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)",
        "with torch.inference_mode():",
        '    outputs = model(transform(Image.open("photo.jpg").convert("RGB")).unsqueeze(0))',
    ]
    if meta["task"] == "classification":
        lines.append('print(model.pretrained_cfg["label_names"][outputs.argmax(1).item()])')
    else:
        mean, std = meta["label_mean"], meta["label_std"]
        lines.append(f"print(outputs * torch.tensor({std}) + torch.tensor({mean}))  # back in the labels' units")
    return "\n".join(lines) + "\n"


def _preprocessing(meta: Mapping[str, Any]) -> str:
    feed = meta["input"]
    config = TrialConfig.from_flat(meta["config"])
    middle = Middle.of(config.model, feed.get("interpolation", "bilinear"))
    square = "the whole image squeezed to a square" if middle.squeezes else "the middle square"
    mean, std = (", ".join(f"{number:g}" for number in feed[name]) for name in ("mean", "std"))
    return (
        f"Input: RGB, upright, {square} at {feed['size']} x {feed['size']} pixels, then (x / 255 - mean) / std with "
        f"mean ({mean}) and std ({std}). timm's own transform, above, does exactly this, as the trial's evaluation "
        "did. Where the training data were shrunk when they were prepared, `slurmtune predict` first shrinks "
        "photographs likewise."
    )


def _classes(meta: Mapping[str, Any]) -> str:
    if meta["task"] != "classification":
        return ""
    names = list(meta["class_names"])
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return f"Classes, in the order of the outputs: {', '.join(names[:_MOST_CLASSES])}{more}."


def _origin(meta: Mapping[str, Any]) -> str:
    pretrained = meta["config"]["model.timm_image.pretrained"]
    data = f"Trained on data with fingerprint `{meta['data_fingerprint']}`."
    cfg = timm.get_pretrained_cfg(meta["model"], allow_unregistered=True)
    if pretrained == "false" or not (cfg and cfg.has_weights):
        return f"{data} Started from scratch: no other weights are in it."
    if pretrained not in ("auto", "true"):
        return f"{data} Started from the weights file {pretrained.rpartition('/')[2]}: its licence applies."
    licence = getattr(cfg, "license", None) or "not stated by timm"
    return f"{data} Started from timm's weights {meta['model']}; their licence: {licence}."
