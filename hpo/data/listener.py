"""How the data room speaks to whoever called it: messages and progress go to two callables, never to a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Tell = Callable[[str], None]  # one message for the person
Progress = Callable[[int, int, str, str], None]  # done, of how many, of what, note


def be_quiet(*_: Any) -> None:
    """A listener that nobody listens to."""
