"""The words of train_transforms, and keys that need company, checked without timm."""

from __future__ import annotations

import pytest

from hpo.errors import UsageError
from hpo.requirements import NEEDS, check_company
from hpo.space import parse_space
from hpo.transforms import check_transforms, read_call, split_transforms
from hpo.trialconfig import check_value, known_keys

GOOD = [
    "rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.8-tweights", "rand", "augmix-m5-w4-d2", "original-mstd0.5", "v0r", "3a",
    "trivial_augment", "randaug(2,9)", "color_jitter({'hue': 0.1})", "affine", "random_vertical_flip",
]  # fmt: skip


def test_good_words():
    words = ["resize_shorter_side", "random_resize_crop", "random_horizontal_flip", *GOOD]
    checked = check_transforms("train_transforms", words)
    assert checked[1] == "random_resized_crop"
    assert split_transforms(checked) == (tuple(checked[:3]), tuple(GOOD))
    assert read_call("randaug(2,9)") == ("randaug", (2, 9), {})
    assert read_call("affine({'degrees': 5})") == ("affine", (), {"degrees": 5})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trivial_augmnet"], "Did you mean 'trivial_augment'"),
        (["rand-m9-x3"], "'rand-m9-x3' has a setting that timm does not know; after rand it takes m, n"),
        (["rand-m9-tall"], "has a setting that timm does not know"),
        (["augmix-d-1"], "has a setting that timm does not know; after augmix"),
        (["randaug(two)"], "must be randaug, or randaug"),
        (["affine(__import__('os'))"], "must be affine, or affine"),
        (["trivial_augment", "center_crop"], "'center_crop' must come before 'trivial_augment'"),
    ],
)
def test_bad_words(words, message):
    with pytest.raises(UsageError, match=message) as refused:
        check_transforms("train_transforms", words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"optim.lora.r": 4}, "optim.lora.r does nothing while optim.peft is None; set optim.peft to lora"),
        ({"optim.lora.r": {"randint": [2, 9]}, "optim.peft": "bit_fit"}, "does nothing while optim.peft is bit_fit"),
        ({"optim.focal_loss.gamma": 1}, "set optim.loss_func: focal_loss"),
        ({"data.mixup.prob": 0.5}, "set data.mixup.turn_on: true"),
        ({"data.random_erasing.mode": "const"}, "set data.random_erasing.prob above 0"),
        ({"optim.end_lr": 1e-6, "optim.lr_schedule": "constant"}, "choose cosine_decay"),
        ({"model.timm_image.crop_scale": 0.5, "model.timm_image.train_transforms": []}, "put random_resized_crop"),
    ],
)
def test_what_can_do_nothing_is_refused(hyperparameters, message):
    with pytest.raises(UsageError, match=message):
        check_company(parse_space(hyperparameters))


def test_company_in_some_trials_is_enough():
    check_company(parse_space({"optim.lora.r": 4, "optim.peft": {"choice": [None, "lora"]}}))
    check_company(parse_space({"data.random_erasing.mode": "rand", "data.random_erasing.prob": {"uniform": [0, 0.5]}}))
    check_company(parse_space({"data.mixup.prob": 1.0}))  # its default
    assert set(NEEDS) < set(known_keys())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.betas", [0.9, 1], "below 1, got 1"),
        ("optim.betas", 0.9, "must be a list of numbers"),
        ("optim.ema_decay", 1.0, "0 or more and below 1"),
        ("optim.peft", "ia3", "AutoMM's optim.peft=ia3 is not supported: it scales activations"),
        ("optim.lr_schedule", "multi_step", "AutoMM's drops at epochs 30 and 55"),
        ("env.precision", 64, "32 is the most"),
        ("data.random_erasing.mode", "noise", "must be one of pixel, rand, const"),
    ],
)
def test_values_are_refused_by_name(key, value, message):
    with pytest.raises(UsageError, match=message):
        check_value(key, value)


def test_other_spellings_of_values():
    assert check_value("optim.betas", ["0.9", "0.99"]) == [0.9, 0.99]
    assert check_value("optim.lr_schedule", "polynomial_decay") == "linear_decay"
    assert check_value("env.precision", "32-true") == "32"
    assert check_value("optim.betas", None) is None
