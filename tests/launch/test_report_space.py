"""The report's plots of the searched space: what they say, and that a real browser draws them without a network."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpo.results.read import open_results, read_results
from hpo.results.report import write_report
from hpo.search.figures import draw_insight
from hpo.search.slices import arrange_slices
from launch.report import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE_LIMIT = 8_000_000


def write_search(sweep: Any, trials: int) -> Path:
    """A sweep in which the learning rate decides everything; half of it ends at rung 1 (epoch 1), half at epoch 3."""
    sweep.start_attempt()
    rng = random.Random(5)
    for number in range(trials):
        lr = 10 ** rng.uniform(-5, 0)
        model = rng.choice(["test_resnet", "test_vit"])
        trial = sweep.suggest(number, "default" if not number else "model", lr=lr, model=model,
                              optimizer=rng.choice(["adamw", "sgd"]))  # fmt: skip
        height = 0.9 - 0.1 * abs(2 + math.log10(lr))
        sweep.train(trial, [height - 0.2, height - 0.1, height][: 1 if number % 2 else 3], node=f"node{number % 4}")
        sweep.decide(trial, 1, 1, "stop" if number % 2 else "continue", height - 0.2, 2, 3, cutoff=0.5)
        if number % 2 == 0:
            sweep.decide(trial, 3, 2, "continue", height, 1, 3)
        sweep.finish(trial, "stopped" if number % 2 else "completed", "max_epochs")
    return sweep.end()


def test_importance_is_of_one_rung_and_finds_what_matters(new_sweep: Any) -> None:
    insight = draw_insight(read_results(open_results(write_search(new_sweep(num_trials=60), 60))))
    assert "val_accuracy at rung 2 (epoch 3), which 30 trials reached" in insight.basis
    assert insight.importance[0][0] == "lr"
    assert insight.importance[0][1] > 0.6
    assert sum(share for _, share in insight.importance) == pytest.approx(1)
    few = draw_insight(read_results(open_results(write_search(new_sweep("fewer", num_trials=20), 20))))
    assert "at rung 1 (epoch 1), which 20 trials reached" in few.basis  # ten at rung 2 are too few


def test_the_plots_hold_the_trials(new_sweep: Any) -> None:
    results = read_results(open_results(write_search(new_sweep(num_trials=60), 60)))
    parallel, slices = draw_insight(results).plots
    lines = [trace for trace in parallel.figure["data"] if trace.get("mode") == "lines"]
    assert len(lines) == 30
    heights = [trace["y"][0] for trace in lines]
    assert heights == sorted(heights)  # the best is drawn last, on top
    assert lines[-1]["line"]["color"] == "rgb(224, 123, 0)"
    lr = next(trace for trace in slices.figure["data"] if isinstance(trace["x"][0], float))
    reached = {row.params["optim.lr"]: row.value for row in results.rows if row.epochs == 3}
    assert dict(zip(lr["x"], lr["y"], strict=True)) == pytest.approx(reached)
    assert json.dumps(parallel.figure, allow_nan=False)


def test_slices_are_three_a_row_with_names_that_can_be_read(new_sweep: Any) -> None:
    results = read_results(open_results(write_search(new_sweep(num_trials=60), 60)))
    figure = draw_insight(results).plots[1].figure
    names = {name for trace in figure["data"] for name in trace["x"] if isinstance(name, str)}
    assert names == {"test_resnet", "test_vit", "adamw", "sgd"}
    places = {tuple(figure["layout"][f"xaxis{n}"]["domain"]) for n in ("", 2, 3)}
    assert len(places) == 3
    later = {number for trace in figure["data"] for number in trace["marker"]["color"]}
    assert later == {row.number for row in results.rows if row.epochs == 3}  # the sweep's numbers, not Optuna's


def test_many_keys_and_many_choices_have_room() -> None:
    axes = {f"xaxis{n or ''}": {"title": {"text": f"k{n}"}} for n in (0, 2, 3, 4)}
    axes["xaxis"] |= {"type": "category", "categoryarray": ["'mobilenetv3_small_100'", "'test_vit'"]}
    axes["xaxis2"] |= {"type": "category", "categoryarray": [f"'mobilenetv3_small_100.of_kind_{n}'" for n in range(9)]}
    axes["xaxis3"] |= {"type": "log"}
    layout = {**axes, **{name.replace("x", "y", 1): {} for name in axes}}
    data = [{"xaxis": "x", "x": ["'test_vit'"]}, {"xaxis": "x2", "x": ["'mobilenetv3_small_100.of_kind_3'"]},
            {"xaxis": "x3", "x": [1e-5, 0.1]}, {"xaxis": "x4", "x": [1.0]}]  # fmt: skip
    found = arrange_slices({"data": data, "layout": layout})
    heights = [tuple(found["layout"][f"yaxis{n or ''}"]["domain"]) for n in (0, 2, 3, 4)]
    assert heights[0] == heights[1] == heights[2]
    assert heights[3][1] < heights[0][0]
    assert found["layout"]["xaxis"]["categoryarray"] == ["mobilenetv3_small_100", "test_vit"]
    angled = found["layout"]["xaxis2"]
    assert angled["tickangle"] == -45
    assert len(set(angled["categoryarray"])) == 9
    assert found["data"][1]["x"][0] in angled["categoryarray"]
    assert found["layout"]["xaxis3"]["dtick"] == 1


def test_too_few_trials_are_told_in_words(all_fates: Path, new_sweep: Any) -> None:
    insight = draw_insight(read_results(open_results(all_fates)))
    assert "Too few trials" in insight.basis
    assert not insight.plots
    (all_fates / "resolved.json").unlink()
    assert "resolved.json is missing" in draw_insight(read_results(open_results(all_fates))).basis
    assert main([str(all_fates)]) == 0


def test_a_metric_that_is_minimised_has_its_lowest_on_top(new_sweep: Any) -> None:
    sweep = new_sweep(num_trials=20, metric="val_loss", mode="min")
    parallel, _ = draw_insight(read_results(open_results(write_search(sweep, 20)))).plots
    heights = [trace["y"][0] for trace in parallel.figure["data"] if trace.get("mode") == "lines"]
    assert heights == sorted(heights, reverse=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, sweep_writer: Any) -> Path:
    """The report of a thousand trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        sweep = write_search(sweep_writer(tmp_path_factory.mktemp("browser") / "sweep", num_trials=1000), 1000)
        return write_report(open_results(sweep), draw=draw_insight)


def test_it_is_one_file_of_bounded_size(report: Path) -> None:
    assert report.stat().st_size < SIZE_LIMIT
    content = report.read_text()
    assert content.count("</html>") == 1
    data = re.findall(r'<script type="application/json">(.*?)</script>', content, re.DOTALL)
    assert len(data) == 2
    assert all(json.loads(one)["data"] for one in data)


def browse(report: Path, *options: str, javascript: bool = True) -> tuple[str, list[str]]:
    """The page as a real browser has it after its scripts ran, and what they wrote on the console. No network."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    net = ["unshare", "--net"] if os.geteuid() == 0 and _may_unshare() else []
    profile = report.parent / f"profile{len(list(report.parent.glob('profile*')))}"
    if not javascript:
        (profile / "Default").mkdir(parents=True)
        refused = {"profile": {"default_content_setting_values": {"javascript": 2}}}
        (profile / "Default" / "Preferences").write_text(json.dumps(refused))
    command = [*net, CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--enable-logging=stderr",
               f"--user-data-dir={profile}", *options, report.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "chrome://" not in line]
    return done.stdout, console


def _may_unshare() -> bool:
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def test_a_browser_without_network_draws_every_plot_and_complains_of_nothing(report: Path) -> None:
    log = report.parent / "net.json"
    page, console = browse(report, "--dump-dom", f"--log-net-log={log}")
    assert console == []
    assert page.count('data-drawn="yes"') == page.count('class="card plotted"') == 2
    assert page.count("main-svg") >= 4  # Plotly's own drawings
    asked = set(re.findall(r'"url":"((?:https?|wss?):[^"]*)"', log.read_text(errors="replace")))
    browsers_own = re.compile(r"https?://[\w.-]*(google|googleapis|gvt1|gstatic)\.com/")
    assert [url for url in asked if not browsers_own.match(url)] == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", ("--window-size=1280,3000",)),
        ("dark-phone", ("--window-size=420,5000", "--blink-settings=preferredColorScheme=0")),
    ],
)
def test_a_screenshot_of_it_shows_the_plots(report: Path, name: str, options: tuple[str, ...]) -> None:
    """Kept in pytest's directory of this run, to be looked at."""
    from PIL import Image

    shot = report.parent / f"report-{name}.png"
    _, console = browse(report, f"--screenshot={shot}", *options)
    assert console == []
    with Image.open(shot) as image:
        pixels = image.convert("RGB").getcolors(1 << 24) or []
    bright = sum(count for count, (r, g, b) in pixels if abs(r - 224) < 30 and abs(g - 123) < 30 and b < 60)
    assert bright > 2000  # lines and dots in the winner's colour
    background = max(pixels)[1]
    assert (sum(background) > 600) == (name == "light")


def test_without_javascript_the_page_can_still_be_read(report: Path) -> None:
    content = report.read_text()
    assert content.count("<noscript>") == 2
    assert content.count("<tr") > 1000
    from PIL import Image

    shot = report.parent / "report-noscript.png"
    browse(report, f"--screenshot={shot}", "--window-size=1280,3000", javascript=False)
    with Image.open(shot) as image:
        pixels = {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert pixels[(11, 98, 164)] > 2000  # the bars of importance
    assert pixels[(42, 122, 185)] > 2000  # trials that completed
