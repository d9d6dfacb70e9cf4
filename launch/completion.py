"""Completion of commands, flags and files for a shell, to be put where it looks for them.

slurmtune completion bash > ~/.local/share/bash-completion/completions/slurmtune
slurmtune completion zsh > ~/.zfunc/_slurmtune           # a folder of $fpath
slurmtune completion fish > ~/.config/fish/completions/slurmtune.fish
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: Python put launch/ on the path, we want the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from launch.interpreter import use_project_environment

    use_project_environment()

import argparse
import importlib

from launch.terminal import command

SHELLS = ("bash", "zsh", "fish")
_PATHS = ("DIR", "FILE", "SWEEP.yaml", "MODEL", "IMAGES", "SOURCE", "OUT", "PATH")  # metavars that stand for one


@command
def main(argv: list[str] | None = None) -> int:
    shell = build_parser().parse_args(argv).shell
    import shtab

    sys.stdout.write(shtab.complete(whole_parser(), shell=shell) + "\n")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="completion.py",
        description="Prints completion of `slurmtune` for a shell.",
        epilog="example: slurmtune completion bash > ~/.local/share/bash-completion/completions/slurmtune",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """`slurmtune` with every command below it, from their own parsers."""
    from launch.cli import COMMANDS

    whole = argparse.ArgumentParser(prog="slurmtune")
    below = whole.add_subparsers()
    for name, text in COMMANDS.items():
        own = importlib.import_module(f"launch.{name}").build_parser()
        for action in own._actions:
            _complete_paths(action)
        below.add_parser(name, help=text, parents=[own], add_help=False, conflict_handler="resolve")
    return whole


def _complete_paths(action: argparse.Action) -> None:
    """Tells shtab that this argument is a file or a folder."""
    import shtab

    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif metavar in _PATHS or (not action.option_strings and not action.choices):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
