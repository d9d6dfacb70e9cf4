"""How results are written: numbers, configurations, and a table in any width."""

from __future__ import annotations

import io
from typing import Any

import pytest

from hpo.results.read import short_names
from hpo.results.table import Column, fit, short_middle
from hpo.results.wording import configuration_yaml, duration, metric_format, one_line, short, value_text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0.0051234, "0.005123"),
        (1e-05, "1e-05"),
        (0.1, "0.1"),
        (12345.6, "12346"),
        (3e12, "3e+12"),
        (7, "7"),
        (True, "true"),
        ("resnet18.a1_in1k", "resnet18.a1_in1k"),
        (["resize", "center_crop"], "resize center_crop"),
        ([], "none"),
        ("two\nlines\x1b[31m", "two lines [31m"),
    ],
)
def test_parameters_are_written_in_few_digits(value: Any, written: str) -> None:
    assert value_text(value) == written


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0.8625, 0.5], ["0.8625", "0.5000"]),
        ([0.8625, None], ["0.8625", "-"]),
        ([12.3456, 14.0], ["12.346", "14.000"]),
        ([123.456, 3e6, 200.0], ["123.46", "3e+06", "200.00"]),
        ([1234.56, 1300.0], ["1234.6", "1300.0"]),
        ([0.5, 0.00001234], ["0.5000", "1.234e-05"]),
        ([0.0, 0.5], ["0.0000", "0.5000"]),
        ([-0.25], ["-0.2500"]),
    ],
)
def test_one_metric_has_the_same_decimals_in_every_row(values: list[float | None], written: list[str]) -> None:
    write = metric_format(values)
    assert [write(value) for value in values] == written


def test_a_metric_without_values_can_be_written() -> None:
    assert metric_format([None])(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (725, "12 min 05 s"), (12000, "3 h 20 min"), (200000, "2 days 7 h")],
)
def test_durations(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_long_texts_are_cut_with_a_mark() -> None:
    assert short("abcdef", 6) == "abcdef"
    assert short("abcdefg", 6) == "abcde…"
    assert short("abcdefg", 6, "...") == "abc..."
    assert short_middle("mobilenetv3_small_050", 12) == "mobilene…050"
    assert len(short_middle("mobilenetv3_small_050", 12, 3)) == 12
    assert one_line(" a\t b\r\nc\x00") == "a b c"


CONFIGURATION = {
    "optim.lr": 1e-05,
    "optim.weight_decay": 3e-7,
    "optim.momentum": 0.9,
    "optim.huge": 1e22,
    "optim.max_epochs": 6,
    "env.precision": "32",
    "env.yes": "no",
    "env.date": "2026-01-01",
    "env.flag": True,
    "env.nothing": None,
    "env.odd": "a: b # c",
    "env.quote": 'say "hi"\n',
    "model.timm_image.checkpoint_name": "vit_tiny_patch16_224.augreg_in21k",
    "model.timm_image.train_transforms": ["random_crop", "no", "1e3"],
    "model.timm_image.none": [],
}


@pytest.mark.parametrize("reader", ["ruamel.yaml", "yaml"])
def test_the_yaml_of_a_configuration_is_read_back_unchanged(reader: str) -> None:
    text = configuration_yaml(CONFIGURATION, {"optim.lr": 5.0, "env.seed": 3})
    if reader == "yaml":
        document = pytest.importorskip("yaml").safe_load(text)
    else:
        from ruamel.yaml import YAML

        document = YAML(typ="safe").load(io.StringIO(text))
    assert document == {"hyperparameters": {**CONFIGURATION, "env.seed": 3}}
    assert all(type(document["hyperparameters"][key]) is type(value) for key, value in CONFIGURATION.items())


def test_names_are_short_where_they_stay_different() -> None:
    assert short_names(["optim.lr", "model.a.size", "model.b.size"]) == {
        "optim.lr": "lr",
        "model.a.size": "model.a.size",
        "model.b.size": "model.b.size",
    }


def columns() -> list[Column]:
    return [
        Column("trial", ["0001", "0002"]),
        Column("model", ["mobilenetv3_small_050.lamb_in1k", "resnet18"], drop=2, least=12),
        Column("node", ["node01", "node02"], drop=3),
        Column("why", ["rank 9 of 12, cutoff 0.52 and more words", "all epochs"], drop=1, least=10),
    ]


def test_with_room_nothing_is_dropped_or_shortened() -> None:
    kept, dropped = fit(columns(), 200)
    assert [column.cells for column in kept] == [column.cells for column in columns()]
    assert dropped == []


@pytest.mark.parametrize(
    ("width", "titles", "dropped"),
    [
        (60, "trial model node why", ""),
        (35, "trial model why", "node"),
        (20, "trial why", "model node"),
        (3, "trial", "model node why"),
    ],
)
def test_a_narrow_table_loses_the_least_important_columns_first(width: int, titles: str, dropped: str) -> None:
    kept, gone = fit(columns(), width)
    assert [column.title for column in kept] == titles.split()
    assert sorted(gone) == sorted(dropped.split())


def test_texts_are_shortened_before_they_push_others_out() -> None:
    kept, _ = fit(columns(), 50)
    model = kept[1].cells
    assert model[0].startswith("mobile")
    assert "…" in model[0]
    assert model[1] == "resnet18"
    assert len(model[0]) == 23  # just enough for all four columns
