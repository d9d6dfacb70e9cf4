"""The names of timm's models, found without importing timm (which takes seconds and torch with it).

timm registers a model by a decorated function and its weights by the keys of a dictionary, both as plain text in
its `models/` folder; a test holds what is read here against timm's own list.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from hpo.errors import UsageError, nearest

_FUNCTION = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_TAGGED = re.compile(r"^\s*['\"](\w+\.[\w-]+)['\"]\s*:", re.MULTILINE)
_RENAMED = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)
_OLD_NAME = re.compile(r"['\"]([\w.-]+)['\"]\s*:")


@functools.cache
def model_names() -> frozenset[str]:
    """The names that timm.create_model takes: architectures, architecture.tag, and renamed old ones."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    architectures: set[str] = set()
    tagged: set[str] = set()
    for path in sorted((Path(spec.origin).parent / "models").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        architectures.update(_FUNCTION.findall(text))
        tagged.update(_TAGGED.findall(text))
        for block in _RENAMED.findall(text):
            architectures.update(_OLD_NAME.findall(block))
    return frozenset(architectures | {name for name in tagged if name.split(".")[0] in architectures})


def check_model_name(name: str) -> str:
    """`name`, if timm has such a model.

    Raises:
        UsageError: it has not; names the nearest.
    """
    names = model_names()
    architecture = name.split(".")[0]
    # A few architectures make their tags by code: those only timm itself can check, when the trial starts.
    unlisted = architecture in names and not any(known.startswith(f"{architecture}.") for known in names)
    if names and name not in names and not unlisted:
        raise UsageError(
            f"model.timm_image.checkpoint_name: timm has no model {name!r}.{nearest(name, names)} "
            "`python -c 'import timm; print(*timm.list_models())'` lists them all."
        )
    return name


@functools.cache
def optimizer_names() -> frozenset[str]:
    """The names that timm.optim.create_optimizer_v2 takes."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    factory = Path(spec.origin).parent / "optim" / "_optim_factory.py"
    text = factory.read_text(encoding="utf-8")
    return frozenset(re.findall(r"(?:\bname=|register_alias\(|^\s+)['\"](\w+)['\"][,)]", text, re.MULTILINE))


def check_optimizer_name(name: str) -> str:
    """`name`, if timm has such an optimiser.

    Raises:
        UsageError: it has not; names the nearest.
    """
    names = optimizer_names()
    if names and name.lower() not in names:
        raise UsageError(f"optim.optim_type: timm has no optimiser {name!r}.{nearest(name, names)}")
    return name
