"""The pages in docs/: every command line is understood by the command, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hpo.space import parse_space

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINES = [
    (page.name, line[2:])
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda text: text)
def test_the_command_understands_the_line(page, line):
    python, script, *arguments = shlex.split(line)
    assert python == "python"
    assert (ROOT / script).is_file()
    command = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    understood = command.build_parser().parse_args(arguments)
    if hasattr(command, "_understand"):
        assert command._understand(understood)


def test_the_tutorials_sweep_is_valid():
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
    document = YAML(typ="safe").load(block)
    assert len(parse_space(document["hyperparameters"]).dimensions) == 4
    assert document["hyperparameter_tune_kwargs"]["num_trials"] == 16


LINKING = [*PAGES, *sorted((ROOT / "docs" / "commands").glob("*.md")), ROOT / "README.md", ROOT / "bench" / "README.md"]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        place, _, heading = target.partition("#")
        found = page.parent / place if place else page
        assert found.exists(), target
        assert not heading or heading in anchors(found.read_text()), target


def anchors(text):
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse writes short options in another way since 3.13")
def test_the_pages_of_the_commands_are_up_to_date():
    command = [sys.executable, ROOT / "docs" / "commands.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_every_class_of_failure_is_on_the_page_with_its_consequence():
    from hpo.failures import BLOCKING, CLASSES

    page = (ROOT / "docs" / "reliability.md").read_text()
    times = {0: "never", 1: "once"}
    for kind, known in CLASSES.items():
        again = "after `--resume`" if kind in BLOCKING else times.get(known.retries, f"{known.retries} times")
        change = "the attempt ends, no trial does" if kind in BLOCKING else known.again
        assert f"| `{kind}` | {known.meaning} | {again} | {change} |".replace("|  |", "| |") in page
