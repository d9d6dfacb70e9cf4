"""launch/report.py: one file that is whole, safe, complete, and does not replace what is not its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import UsageError
from hpo.layout import SweepDirectory
from hpo.results.lanes import assign_lanes
from hpo.results.page import MARKER
from hpo.results.plots import Axis, tick_text, value_axis
from hpo.results.read import read_results
from hpo.results.report import render_report, write_report
from hpo.results.timeline import Span
from launch.report import main

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "link", "br", "hr", "img", "wbr", "input"}
LOADS = {"src", "srcset", "data", "action", "poster", "background"}  # attributes that make a browser fetch


class Page(HTMLParser):
    """Reads a page and complains where a tag is not closed or closes another."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: dict[str, int] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values["href"] or ""] if "href" in values else []
        self.loads += [f"{tag} {name}" for name in values if name in LOADS or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def report_of(directory: Path) -> tuple[str, Page]:
    text = render_report(read_results(SweepDirectory(directory)), now=1_800_000_000)
    page = Page(text)
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if not link.startswith("#") or link[1:] not in page.ids] == []
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    return text, page


def test_the_command_writes_the_report_and_says_where(all_fates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(all_fates)]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(all_fates / "report.html")
    assert (all_fates / "report.html").read_text().startswith(f"<!DOCTYPE html>\n{MARKER}\n")
    assert main([str(all_fates)]) == 0  # its own report it may replace
    left = {path.name for path in all_fates.iterdir()}
    assert left == {"journal.jsonl", "resolved.json", "report.html"}


def test_the_page_tells_the_whole_story(all_fates: Path) -> None:
    _, page = report_of(all_fates)
    for words in (
        "6 of 6 trials: 3 completed, 1 stopped, 1 diverged, 1 failed.",
        "0.2625 better than the default configuration (trial 0000, 0.6000)",
        "stopped at epoch 2 of 6: 0.41 was rank 3 of 3, cutoff 0.52 for the best third",
        "diverged at epoch 1 of 6: val_accuracy was not finite at epoch 1",
        "failed at epoch 0 of 6 (failed 2 times): out_of_memory: CUDA out of memory: tried 2 GiB",
        "model.timm_image.checkpoint_name: mobilenetv3_small_050",
        "without a word: killed, or its node died",
        "Train the best ones again with other seeds. Take the winner away: python launch/retrain.py DIR --top 3",
        "all trials done",
        "/data/clothing",
    ):
        assert words in page.text, words
    assert {f"t{number:04d}" for number in range(6)} <= set(page.ids)
    assert page.tags["svg"] == 4


def test_the_plots_show_every_trial_with_a_value(all_fates: Path) -> None:
    text, _ = report_of(all_fates)
    trials, progress, curves, workers = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert trials.count("<circle") == 4
    assert trials.count('class="best"') == 1
    assert "0002 stopped: 0.4100\ncheckpoint_name=test_resnet, lr=0.0001, optim_type=sgd" in trials
    assert progress.count("<circle") == 10  # each new best: five of trial 0, all of trial 1 but its first
    assert "attempt a2" in progress
    assert curves.count('class="curve') == 4
    assert curves.count('class="curve best"') == 1
    assert workers.count("<rect") == 8  # one for each start: trial 4 twice, trial 5 in two attempts
    assert workers.count('<rect class="best"') == 1
    assert "node01" in workers
    assert "node02" in workers


def test_a_rung_is_marked_where_trials_met_it(new_sweep: Any) -> None:
    sweep = new_sweep(num_trials=2)
    sweep.start_attempt()
    for number, values in enumerate([[0.5, 0.6, 0.7, 0.7, 0.7, 0.7], [0.1, 0.2]]):
        trial = sweep.suggest(number, "default")
        sweep.train(trial, values)
        sweep.decide(trial, 2, 1, "stop" if number else "continue", values[1], number + 1, number + 1)
    sweep.decide("0000", 6, 2, "stop", 0.7, 1, 1)  # the last rung only ranks
    sweep.finish("0000", "completed", "max_epochs")
    sweep.finish("0001", "stopped", "ASHA")
    text, _ = report_of(sweep.end())
    assert ">rung 1</text>" in text
    assert ">rung 2</text>" not in text
    assert (
        "Rungs rung epoch arrived stopped paused went on 1 2 2 1 0 1 A rung is an epoch at which trials are compared."
        in spaced(text)
    )


def spaced(text: str) -> str:
    """The words of `text` with a space for every tag."""
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_names_and_causes_cannot_become_code(new_sweep: Any) -> None:
    evil = "<script>alert('&\"')</script>"
    sweep = new_sweep(name=evil, data=evil, metric="val_<b>accuracy", constants={evil: evil}, num_trials=2)
    sweep.start_attempt()
    sweep.train(sweep.suggest(0, evil, model=evil), [0.5], node=evil)
    sweep.decide("0000", 1, 1, "continue", 0.5, 1, 1)
    sweep.finish("0000", "completed", evil)
    sweep.train(sweep.suggest(1, "random", lr=0.1, optimizer=evil), [0.6, 0.7])
    sweep.fail("0001", evil, evil, retry=False)
    directory = sweep.end(evil)
    (directory / "provenance.json").write_text(json.dumps({evil: {"argv": [evil]}}))
    (directory / "sweep.yaml").write_text(f"name: {evil}\n</details></pre>{evil}")
    text, page = report_of(directory)
    assert page.tags["script"] == 1
    assert "<b>accuracy" not in text
    assert "<script>alert" not in text
    assert page.text.count(evil) >= 8


def test_only_its_own_script_may_run_and_nothing_may_be_loaded(all_fates: Path) -> None:
    text, _ = report_of(all_fates)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert script is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_light_and_dark_and_small_screens_are_provided_for(all_fates: Path) -> None:
    text, _ = report_of(all_fates)
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    used = set(re.findall(r"var\((--[a-z]+)\)", text))
    light, dark = (set(re.findall(r"(--[a-z]+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL))
    assert used <= light == dark


def test_every_state_has_a_colour_of_its_own(all_fates: Path) -> None:
    text, _ = report_of(all_fates)
    for state in ("completed", "stopped", "diverged", "failed", "running", "best"):
        assert f"svg.drawn circle.{state} {{ fill: var(--{state})" in text
        assert f"svg.drawn .curve.{state} {{ stroke: var(--{state})" in text
        assert f".dot.{state} {{ background: var(--{state})" in text


def test_a_running_and_a_waiting_sweep_have_reports_too(running_sweep: Path, new_sweep: Any) -> None:
    _, page = report_of(running_sweep)
    assert "at work, as far as the journal says" in page.text
    assert "suggested, not started yet" in page.text
    waiting = new_sweep("waiting").close()
    (waiting / "journal.jsonl").unlink()
    _, page = report_of(waiting)
    assert "No attempt has started yet" in page.text
    assert "svg" not in page.tags


@pytest.mark.parametrize(
    "values", [[0.5], [0.5, 0.5], [0.0, 0.0], [-1.0, 1e300], [1e-300, 2e-300], [float("nan"), 0.5], [1e6] * 30 + [1.0]]
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_odd_values_are_drawn(new_sweep: Any, values: list[float], mode: str) -> None:
    sweep = new_sweep(mode=mode)
    sweep.start_attempt()
    for number, value in enumerate(values):
        sweep.train(sweep.suggest(number, "random"), [value, value])
    text, page = report_of(sweep.end())
    assert page.tags["svg"] == 4
    assert "nan" not in "".join(re.findall(r' (?:d|cx|cy|x|y)="([^"]*)"', text))


def test_a_file_of_somebody_else_is_not_replaced(all_fates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (all_fates / "report.html").write_text("<html>my notes</html>")
    assert main([str(all_fates)]) == 2
    assert "is no report of slurmtune" in capsys.readouterr().err
    assert (all_fates / "report.html").read_text() == "<html>my notes</html>"
    assert main([str(all_fates), "--out", str(all_fates)]) == 2  # a directory
    assert main([str(all_fates), "--out", str(all_fates / "missing" / "report.html")]) == 2


def test_a_directory_that_may_only_be_read_has_its_report_elsewhere(
    all_fates: Path, no_write_permission: Callable[[Path], Any]
) -> None:
    with tempfile.TemporaryDirectory() as open_folder:  # tmp_path itself is closed to other users
        Path(open_folder).chmod(0o777)
        copy = shutil.copytree(all_fates, Path(open_folder) / "sweep")
        with no_write_permission(copy):
            with pytest.raises(UsageError, match="cannot be written .Permission denied.; name another file with --out"):
                write_report(SweepDirectory(copy))
            elsewhere = write_report(SweepDirectory(copy), Path(open_folder) / "report.html")
        assert elsewhere.read_text().endswith("</html>\n")
        assert sorted(path.name for path in copy.iterdir()) == ["journal.jsonl", "resolved.json"]


def test_provenance_is_shown_and_a_damaged_one_is_named(all_fates: Path) -> None:
    facts = {"user": "mk", "versions": {"torch": "2.14.1"}, "argv": ["launch/submit.py", "sweep.yaml"]}
    (all_fates / "provenance.json").write_text(json.dumps(facts))
    (all_fates / "sweep.yaml").write_text("hyperparameters:\n  optim.lr: {loguniform: [1e-4, 1e-1]}\n")
    words = spaced(report_of(all_fates)[0])
    assert "versions.torch 2.14.1" in words
    assert "argv launch/submit.py sweep.yaml" in words
    assert "optim.lr: {loguniform: [1e-4, 1e-1]}" in words
    (all_fates / "provenance.json").write_text("{")
    assert "provenance.json not readable" in spaced(report_of(all_fates)[0])


def test_a_thousand_trials_stay_below_two_megabytes(new_sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # 10,000 of them would only make this slow
    sweep = new_sweep(num_trials=1000, max_epochs=100)
    sweep.start_attempt()
    for number in range(1000):
        trial = sweep.suggest(number, "model", lr=1 / (number + 7), model="mobilenetv3_small_050.lamb_in1k")
        epochs = 100 if number % 25 == 0 else 4
        sweep.train(trial, [1 - 1 / (epoch + number % 17) for epoch in range(2, epochs + 2)])
        sweep.decide(trial, 4, 1, "continue" if epochs == 100 else "stop", 0.8, 5, 9, cutoff=0.85)
        sweep.finish(trial, "completed" if epochs == 100 else "stopped", "max_epochs")
    text, page = report_of(sweep.end())
    assert page.tags["tr"] > 1000
    assert len(text.encode()) < 2_000_000


def test_it_needs_nothing_installed(all_fates: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / "launch" / "report.py"), str(all_fates), "--out", "page.html"]
    alone = {**os.environ, "SLURMTUNE_REEXECUTED": "1"}  # else it would go on in the checkout's .venv
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=alone)
    assert (run.returncode, run.stdout) == (0, "page.html\n")
    assert "made without importance and parallel coordinates" in run.stderr
    page = Page((tmp_path / "page.html").read_text())
    assert page.problems == []
    assert "need optuna and plotly" in page.text


def test_lanes_are_as_many_as_ran_at_once() -> None:
    spans = [
        Span("0", "a", 0, 5),
        Span("1", "a", 1, 3),
        Span("2", "a", 3, 9),
        Span("3", "b", 0, 1),
        Span("4", "a", 5, 6),
    ]
    lanes = [(node, [span.trial for span in lane]) for node, lane in assign_lanes(spans)]
    assert lanes == [("a", ["0", "4"]), ("a", ["1", "2"]), ("b", ["3"])]


def test_ticks_are_round_and_inside() -> None:
    assert [tick_text(tick) for tick in Axis(0.07, 0.93, 0, 1).ticks()] == ["0.2", "0.4", "0.6", "0.8"]
    assert [tick_text(tick) for tick in Axis(0, 7, 0, 1).ticks()] == ["0", "2", "4", "6"]
    assert [tick_text(tick) for tick in Axis(-1e6, 1e6, 0, 1).ticks(4)] == ["-1e+06", "-500000", "0", "500000", "1e+06"]


@pytest.mark.parametrize("maximise", [True, False])
def test_a_few_very_bad_values_do_not_flatten_the_rest(maximise: bool) -> None:
    sign = 1 if maximise else -1
    usual = [sign * (0.5 + number / 100) for number in range(30)]
    axis = value_axis([*usual, sign * -1e9], maximise)
    assert axis.beyond == 1
    assert axis.high - axis.low < 1
    assert all(axis.low < value < axis.high for value in usual)
    assert value_axis(usual, maximise).beyond == 0
