"""The words of `model.timm_image.train_transforms`, read without timm or torchvision.

Boxes say which part of an image is shown and whether mirrored (hpo.trial.augment); policies change its colours and
shape by timm's and torchvision's own code (hpo.trial.policies) and come after all boxes:
    trivial_augment   randaug, randaug(2,9)   color_jitter, color_jitter(0.4)   affine, affine(15)   torchvision's
    rand-m9-mstd0.5-inc1   augmix-m3-w3   original-mstd0.5   v0   3a                                 timm's
    random_vertical_flip                                                                             upside down
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from hpo.errors import UsageError, nearest

RESIZE = "resize"
BOXES = (RESIZE, "resize_shorter_side", "center_crop", "random_resized_crop", "random_crop", "random_horizontal_flip")
VERTICAL_FLIP = "random_vertical_flip"
TORCHVISION = ("trivial_augment", "randaug", "color_jitter", "affine")

_RENAMED = {"resize_to_square": RESIZE, "random_resize_crop": "random_resized_crop"}  # AutoMM's words for the same
_CALL = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_SETTING = r"\d+(\.\d+)?"
_TIMM = (  # timm's strings and the settings that each of them takes
    (
        re.compile(rf"rand(-((mmax|inc|m|n)\d+|(mstd|p){_SETTING}|t(weights|3aw|3a)))*"),
        "m, n, mmax, inc with whole numbers, mstd, p, and tweights, t3a or t3aw",
    ),
    (
        re.compile(rf"augmix(-((m|w|d|b)\d+|(mstd|a){_SETTING}))*"),
        "m, w, d, b with whole numbers, mstd and a",
    ),
    (re.compile(rf"(originalr?|v0r?|3a)(-(mstd{_SETTING}))?"), "mstd"),
)
_FIRST_WORDS = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")


def check_transforms(name: str, words: Sequence[str]) -> list[str]:
    """`words` in today's spelling.

    Raises:
        UsageError: one of them is unknown or has an impossible argument, or a box comes after a policy.
    """
    checked = [_check(name, _RENAMED.get(word, word)) for word in words]
    policies = [word for word in checked if word not in BOXES]
    late = [word for place, word in enumerate(checked) if word in BOXES and any(w in policies for w in checked[:place])]
    if late:
        raise UsageError(f"{name}: {late[0]!r} must come before {policies[0]!r}, which works on the cropped image.")
    return checked


def split_transforms(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Boxes and policies, each in their order."""
    return tuple(w for w in words if w in BOXES), tuple(w for w in words if w not in BOXES)


def is_timm_policy(word: str) -> bool:
    return any(pattern.fullmatch(word) for pattern, _ in _TIMM)


def read_call(word: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """'randaug(2,9)' as ('randaug', (2, 9), {}); as in AutoMM one dict in the parentheses gives keywords.

    Raises:
        ValueError, SyntaxError: what is in the parentheses are not plain values.
    """
    match = _CALL.fullmatch(word)
    if match is None:
        return word, (), {}
    arguments: tuple[Any, ...] = ast.literal_eval(f"({match[2]},)") if match[2].strip() else ()
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        return match[1], (), arguments[0]
    return match[1], arguments, {}


def _check(name: str, word: str) -> str:
    first = re.split(r"[-(]", word, maxsplit=1)[0]
    if word in BOXES or word == VERTICAL_FLIP or is_timm_policy(word):
        return word
    if first in TORCHVISION:
        try:
            if read_call(word)[0] in TORCHVISION:
                return word
        except (ValueError, SyntaxError):
            pass
        raise UsageError(f"{name}: {word!r} must be {first}, or {first}(...) with plain values in the parentheses.")
    if first in _FIRST_WORDS:
        known = next(settings for pattern, settings in _TIMM if pattern.fullmatch(first))
        raise UsageError(f"{name}: {word!r} has a setting that timm does not know; after {first} it takes {known}.")
    words = (*BOXES, *TORCHVISION, VERTICAL_FLIP, *_FIRST_WORDS)
    raise UsageError(f"{name} must be one of {', '.join(words)}, got {word!r}.{nearest(word, words)}")
