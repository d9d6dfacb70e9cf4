"""Policies of timm and torchvision on rendered images: RandAugment, AugMix, TrivialAugment, colour jitter and the like.

It is their own code on Pillow images. That code draws from generators of the whole process, which the loader's threads
share with each other and with dropout; here it runs in copies of its modules whose generators are the thread's own,
seeded for each image. So what happens to an image follows from seed, epoch and sample alone, and an image is changed
exactly as by the library after `random.seed(s)`, `numpy.random.seed(s)` and `torch.manual_seed(s)`.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hpo.errors import TrialError
from hpo.transforms import VERTICAL_FLIP, is_timm_policy, read_call, split_transforms
from hpo.trial.randomness import derive

if TYPE_CHECKING:
    from hpo.trial.model import Input
    from hpo.trialkeys import ModelConfig

_PURPOSE = 6  # tells these numbers from those of weights, order, boxes, dropout and mixing
_MOST_SEED = 2**32  # of numpy's old generator
_TORCHVISION: dict[str, tuple[str, str, dict[str, Any]]] = {  # word -> module, class, arguments where none are given
    "trivial_augment": ("autoaugment", "TrivialAugmentWide", {}),
    "randaug": ("autoaugment", "RandAugment", {}),
    "color_jitter": ("transforms", "ColorJitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}),
    "affine": ("transforms", "RandomAffine", {"degrees": 15, "translate": (0.1, 0.1), "scale": (0.9, 1.1)}),
}

Policy = Callable[[Image.Image], Image.Image]


def create_policies(config: ModelConfig, feed: Input) -> Policies | None:
    """Those of train_transforms for images as `feed` describes them; None: there are none."""
    _, words = split_transforms(config.train_transforms)
    return Policies(words, feed.size, feed.mean) if words else None


class Policies:
    """The policies of one trial, in their order, for images of `size` pixels a side.

    Raises:
        TrialError: timm or torchvision refuse what one of the words asks for.
    """

    def __init__(self, words: Sequence[str], size: int, mean: Sequence[float]) -> None:
        self._policies = [_create(word, size, mean) for word in words]

    def apply(self, images: np.ndarray, samples: np.ndarray, seed: int, epoch: int) -> None:
        """Changes `images`, uint8 (B, S, S, 3) with the ids `samples`, in place."""
        for pixels, sample in zip(images, samples.tolist(), strict=True):
            seed_image(derive(seed, epoch, sample, _PURPOSE) % _MOST_SEED)
            image = Image.fromarray(pixels)
            for policy in self._policies:
                image = policy(image)
            np.copyto(pixels, np.asarray(image))


def seed_image(seed: int) -> None:
    """Seeds the three generators of this thread."""
    _own.python.seed(seed)
    _own.numpy.seed(seed)
    _own.torch.manual_seed(seed)


def _create(word: str, size: int, mean: Sequence[float]) -> Policy:
    name, positional, named = read_call(word)
    try:
        if word == VERTICAL_FLIP:
            return _flip_vertically
        if is_timm_policy(word):
            return _create_timm(word, size, mean)
        module, of, usual = _TORCHVISION[name]
        arguments = named if positional or named else usual
        return getattr(_torchvision(module), of)(*positional, **arguments)
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrialError(f"model.timm_image.train_transforms: {word!r} is not possible ({reason}).") from error


def _create_timm(word: str, size: int, mean: Sequence[float]) -> Policy:
    """With the settings of timm.data.transforms_imagenet_train."""
    settings: dict[str, Any] = {"img_mean": tuple(min(255, round(255 * share)) for share in mean)}
    if word.startswith("augmix"):
        settings["translate_pct"] = 0.3
        return _timm().augment_and_mix_transform(word, settings)
    settings["translate_const"] = int(size * 0.45)
    create = _timm().rand_augment_transform if word.startswith("rand") else _timm().auto_augment_transform
    return create(word, settings)


def _flip_vertically(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if _own.python.random() < 0.5 else image


class _Own(threading.local):
    """The generators of this thread."""

    def __init__(self) -> None:
        self.python, self.numpy, self.torch = random.Random(), np.random.RandomState(), torch.Generator()


_own = _Own()


class _Python:
    """What module `random` is to the copies."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_own.python, name)


class _Numpy:
    """What `numpy` is to the copies: numpy, but for `numpy.random`."""

    def __getattr__(self, name: str) -> Any:
        return _own.numpy if name == "random" else getattr(np, name)


class _ImageOps:
    """What `ImageOps` is to timm's copy: Pillow 13 refuses to posterize to 0 bits, which timm asks for at times. Of a
    grey level without its bits nothing is left, as in Pillow before."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ImageOps, name)

    def posterize(self, image: Image.Image, bits: int) -> Image.Image:
        return ImageOps.posterize(image, bits) if bits >= 1 else Image.new(image.mode, image.size)


class _Torch:
    """What `torch` is to the copies: torch, but for the functions by which they draw."""

    def __getattr__(self, name: str) -> Any:
        if name in ("rand", "randint", "randperm"):
            return functools.partial(getattr(torch, name), generator=_own.torch)
        return _Empty if name == "empty" else getattr(torch, name)


class _Empty:
    """`torch.empty(1)`, which the copies only ever fill by `uniform_`."""

    def __init__(self, size: int) -> None:
        self._size = size

    def uniform_(self, low: float, high: float) -> torch.Tensor:
        return torch.empty(self._size).uniform_(low, high, generator=_own.torch)


@functools.cache
def _timm() -> ModuleType:
    return _copy("timm.data.auto_augment", random=_Python(), np=_Numpy(), ImageOps=_ImageOps())


@functools.cache
def _torchvision(name: str) -> ModuleType:
    return _copy(f"torchvision.transforms.{name}", torch=_Torch())


def _copy(name: str, **replaced: Any) -> ModuleType:
    """A second copy of module `name`, of its own and unknown to everybody else, with `replaced` for its globals."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise TrialError(f"module {name} is missing; install timm and torchvision as pyproject.toml asks.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(replaced)
    return module
