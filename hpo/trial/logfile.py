"""log.txt: what a trial says while it runs, from this package's loggers and timm's."""

from __future__ import annotations

import logging
from pathlib import Path

_NAMES = ("hpo.trial", "timm")


def open_log(path: Path) -> logging.Handler:
    """Appends to `path` until `close_log`."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    for name in _NAMES:
        logging.getLogger(name).addHandler(handler)
    logging.getLogger(_NAMES[0]).setLevel(logging.INFO)
    return handler


def close_log(handler: logging.Handler) -> None:
    for name in _NAMES:
        logging.getLogger(name).removeHandler(handler)
    handler.close()
