"""Wrong sweeps and wrong requests: each is refused before submission, with one line that says what to do.

All run through launch/submit.py in one process, which is looked at in the end: neither ray nor torch was imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wrong_sweeps import CASES, make_place, tell

ROOT = Path(__file__).resolve().parents[2]
KINDS = [  # all that the cases below build, so that torch starts once, and however long it takes
    "sweep.yaml", "--cluster", "local",
    "--set", "model.timm_image.checkpoint_name={choice: [test_resnet, test_vit, vgg11]}",
    "--set", "model.timm_image.image_size={choice: [null, 100]}", "--set", "optim.peft={choice: [null, norm_fit]}",
    "--set", "model.timm_image.drop_path_rate={choice: [0, 0.2]}",
]  # fmt: skip
RUN = """\
import contextlib, io, json, sys
from launch import check, submit
answers = {}
kinds, cases = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    check.main(kinds)
for name, argv in cases:
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code = submit.main(argv)
    answers[name] = code, said.getvalue(), shown.getvalue()
json.dump({"answers": answers, "modules": sorted(sys.modules)}, sys.stdout)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("wrong"))


@pytest.fixture(scope="module")
def answers(place, site):
    """What submit.py said to each case, from one process that ran them all."""
    own = {name: str(place / name) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME")}
    environ = {**os.environ, **own, "PATH": f"{site}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    questions = json.dumps([KINDS, [(name, [sweep, *flags]) for name, sweep, flags, _, _ in CASES]])
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, input=questions, cwd=place, env=environ, capture_output=True, text=True,
                          timeout=580, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "code", "words"), [(name, code, words) for name, _, _, code, words in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_it_is_refused_with_one_line_that_helps(answers, name, code, words):
    got, said, shown = answers["answers"][name]
    assert got == code, said
    errors = [line for line in said.splitlines() if line.startswith("slurmtune: error: ")]
    assert len(errors) == 1, said
    assert shown == ""
    assert "Traceback" not in said
    for word in words:
        assert word in errors[0]


def test_the_page_has_each_with_what_is_said(answers, place):
    page = (ROOT / "docs" / "refusals.md").read_text()
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in page.splitlines() if row.startswith("| ")}
    anew = "python bench/check/refusals.py --page docs/refusals.md"
    assert rows.keys() - {"wrong"} == {case[0] for case in CASES}, anew
    for name, _, _, code, _ in CASES:
        assert rows[name].endswith(f" | {code} | {tell(answers['answers'][name][1], place)} |"), anew


def test_nothing_was_submitted_or_written_and_nothing_heavy_was_imported(answers, place, site):
    assert not (site / "submitted").exists()
    assert not (place / "runs").exists()
    assert not {"ray", "torch", "timm", "optuna"} & set(answers["modules"])


def test_there_are_forty():
    assert len({case[0] for case in CASES}) == len(CASES) >= 40
