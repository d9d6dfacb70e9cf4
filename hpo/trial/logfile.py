"""log.txt: what a trial says while it runs, from this package's loggers, those of its data, and timm's."""

from __future__ import annotations

import logging
from pathlib import Path

_OURS = ("hpo.trial", "hpo.data")
_NAMES = (*_OURS, "timm")


def open_log(path: Path) -> logging.Handler:
    """Appends to `path` until `close_log`."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    for name in _NAMES:
        logging.getLogger(name).addHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    return handler


def close_log(handler: logging.Handler) -> None:
    for name in _NAMES:
        logging.getLogger(name).removeHandler(handler)
    handler.close()
