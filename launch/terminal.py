"""How commands speak: one line for an error, a progress line on stderr, an exit code."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from hpo.errors import SlurmtuneError, explain_storage
from hpo.results.wording import duration

Argv = list[str] | None
_INTERRUPTED = 130


class Main(Protocol):
    def __call__(self, argv: Argv = None) -> int: ...


def command(main: Callable[[Argv], int]) -> Main:
    """Turns the errors of `main` into one line on stderr and their exit code (see hpo.errors)."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except SlurmtuneError as error:
            say(f"error: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            say("interrupted")
            return _INTERRUPTED
        except BrokenPipeError:  # `results.py DIR | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if not (why := explain_storage(error)):
                raise
            say(f"error: {why}.")
            return SlurmtuneError.exit_code

    return run


def whole_number(least: int) -> Callable[[str], int]:
    """For argparse: a flag's value as an integer of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def say(message: str) -> None:
    """One message line on stderr; results go to stdout by print."""
    sys.stderr.write(f"slurmtune: {message}\n")
    sys.stderr.flush()


def colour(text: str, code: str, stream: TextIO | None = None) -> str:
    """`text` in an ANSI colour when `stream` is a terminal that wants colours (https://no-color.org)."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


class Progress:
    """Done, total and the time left of a long piece of work.

    On a terminal one line is redrawn; elsewhere (a log file) a line appears at every tenth and at most each 10 s.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start = time.monotonic()
        self._live = sys.stderr.isatty()
        self._last_tenth, self._last_time = 0, self._start

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self._live:
            if now - self._last_time >= 0.1 or done >= self._total:
                self._last_time = now
                sys.stderr.write(f"\r\x1b[K{self._line(done, now, note)}")
                sys.stderr.flush()
            return
        tenth = 10 * done // max(self._total, 1)
        if tenth > self._last_tenth or now - self._last_time >= 10:
            self._last_tenth, self._last_time = tenth, now
            say(self._line(done, now, note))

    def close(self, summary: str = "") -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
        if summary:
            say(f"{summary} ({duration(time.monotonic() - self._start)})")

    def _line(self, done: int, now: float, note: str) -> str:
        share = done / max(self._total, 1)
        left = f", {duration((now - self._start) * (1 - share) / share)} left" if 0 < share < 1 else ""
        return f"{self._label}: {done} of {self._total} {self._unit}, {share:.0%}{left}{'  ' + note if note else ''}"
