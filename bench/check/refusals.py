"""Seconds until submit.py refuses each wrong sweep and request of tests/wrong_sweeps.py, and the page that lists them.

python bench/check/refusals.py                          # prints the slowest and the median; some minutes
python bench/check/refusals.py --page docs/refusals.md  # writes the page anew, with what was said

Each is a command of its own that finds nothing remembered. SLURM's commands are recorded answers, which come at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from wrong_sweeps import CASES, make_place, make_site, tell  # noqa: E402

_HEAD = """\
# What is refused before anything is submitted

{count} wrong sweeps, requests and site files, each wrong in one thing, and what `submit.py` says to it. A test runs
them all and holds this page against what is said (`tests/check/test_wrong_sweeps.py`). `bench/check/refusals.py` writes
it, and measures how long each takes, as a command of its own with nothing remembered:
{figures} (2 cores of an x86-64 VM, {date}).

`sweep.yaml` is a sound sweep; the wrong files are in `tests/wrong_sweeps.py`, and so is the site, of recorded answers.

| wrong | `python launch/submit.py` | exit | `slurmtune: error:` |
|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--page", type=Path)
    page = parser.parse_args().page
    rows, walls, cpus = [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as temp:
        folder = Path(temp)
        for name in ("site", "place"):
            (folder / name).mkdir()
        site, place = make_site(folder / "site"), make_place(folder / "place")
        for name, sweep, flags, code, _ in CASES:
            said, wall, cpu = _refuse([sweep, *flags], site, place, folder)
            assert said[0] == code, (name, said)
            walls.append(wall)
            cpus.append(cpu)
            words = shlex.join([sweep, *flags]).replace("|", "\\|")
            rows.append(f"| {name} | `{words}` | {code} | {tell(said[1], place)} |")
            print(f"{wall:6.2f} s {cpu:6.2f} CPU s  {name}", flush=True)
    figures = (f"{statistics.median(walls):.1f} s in the median ({statistics.median(cpus):.1f} s of CPU), at most "
               f"{max(walls):.1f} s ({max(cpus):.1f})")  # fmt: skip
    print(figures)
    if page:
        text = _HEAD.format(count=len(CASES), figures=figures, date=time.strftime("%-d %B %Y")) + "\n".join(rows) + "\n"
        page.write_text(text, encoding="utf-8")


def _refuse(words: list[str], site: Path, place: Path, folder: Path) -> tuple[tuple[int, str], float, float]:
    """Exit code and stderr; wall and CPU seconds."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    environ = {**os.environ, "PATH": f"{site}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache"),
               "XDG_CONFIG_HOME": str(folder / "config"), "HF_HOME": str(place / "HF_HOME")}  # fmt: skip
    command = [sys.executable, str(ROOT / "launch" / "submit.py"), *words]
    before, start = os.times(), time.monotonic()
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=300, check=False)
    wall, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return (done.returncode, done.stderr), wall, cpu


if __name__ == "__main__":
    main()
