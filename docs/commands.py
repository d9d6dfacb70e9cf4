"""Writes docs/commands/: a page for each command, from its docstring and its --help. `make docs` runs it.

python docs/commands.py           # writes the pages
python docs/commands.py --check   # says which page is out of date; exit code 1 then
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "commands"
_COLUMNS = "100"


def main(arguments: list[str]) -> int:
    pages = {PAGES / f"{name}.md": page(name) for name in commands()}
    pages[PAGES / "README.md"] = index(sorted(commands()))
    if arguments == ["--check"]:
        stale = [str(path.relative_to(ROOT)) for path, text in pages.items() if not _is(path, text)]
        sys.stderr.write("".join(f"{path} is out of date: run `make docs`\n" for path in stale))
        return 1 if stale else 0
    PAGES.mkdir(exist_ok=True)
    for path in set(PAGES.glob("*.md")) - set(pages):
        path.unlink()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


def commands() -> list[str]:
    """The files of launch/ that are commands: those that end by running their main."""
    return [path.stem for path in (ROOT / "launch").glob("*.py")
            if path.stem != "cli" and "raise SystemExit(main())" in path.read_text(encoding="utf-8")]  # fmt: skip


def page(name: str) -> str:
    """Title, what the file says of itself, and --help as a terminal of 100 columns shows it."""
    summary, _, rest = docstring(name).partition("\n")
    said = f"```text\n{rest.strip(chr(10))}\n```\n\n" if rest.strip() else ""
    return f"# {name}\n\n{summary}\n\n{said}## --help\n\n```text\n{help_text(name)}```\n"


def help_text(name: str) -> str:
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), "--help"]
    environ = {**os.environ, "COLUMNS": _COLUMNS, "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environ).stdout


def index(names: list[str]) -> str:
    lines = [f"- [{name}]({name}.md): {docstring(name).partition(chr(10))[0]}" for name in names]
    codes = "Their exit codes are the same for all: [README](../../README.md#exit-codes)."
    return f"# Commands\n\nMade from each command's `--help` by `make docs`. {codes}\n\n" + "\n".join(lines) + "\n"


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "launch" / f"{name}.py").read_text(encoding="utf-8"))) or ""


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
