"""Pretrained weights: from a cache, from a file, or a line that says how to get them."""

from __future__ import annotations

import shutil

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from hpo.errors import WeightsError
from hpo.trial import Training
from hpo.trial.model import create_model
from hpo.trialkeys import ModelConfig


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face, and one of torch.hub; no network."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # the variable is read at import only
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    return folder


def make_weights(name, classes=1000):
    """Weights that no random start would give."""
    torch.manual_seed(99)
    return timm.create_model(name, num_classes=classes).state_dict()


def put_into_cache(cache, repository, weights):
    snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    save_file(weights, snapshot / "model.safetensors")


def build(**keys):
    torch.manual_seed(0)
    return create_model(ModelConfig(**{"checkpoint_name": "test_resnet", **keys}), outputs=4, size=32)[0].state_dict()


def test_missing_weights_name_the_command_and_the_way_without(cache, raw_data, configure, tmp_path):
    with pytest.raises(WeightsError) as missing:
        Training(configure({"model.timm_image.pretrained": "auto"}), raw_data, tmp_path / "trial")
    message = str(missing.value)
    assert "timm/test_efficientnet.r160_in1k" in message
    assert "python launch/prefetch.py --model test_efficientnet" in message
    assert "model.timm_image.pretrained: false" in message
    assert "\n" not in message


def test_download_that_fails_is_one_line(cache):
    with pytest.raises(WeightsError, match="cannot be downloaded") as failed:
        build(pretrained="true")
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("pretrained", ["auto", "true"])
def test_cached_weights_are_taken_without_the_network(cache, pretrained):
    weights = make_weights("test_resnet")
    put_into_cache(cache, "timm/test_resnet.r160_in1k", weights)
    loaded = build(pretrained=pretrained)
    assert [
        name for name in weights if not name.startswith("fc.") and not torch.equal(loaded[name], weights[name])
    ] == []
    assert loaded["fc.weight"].shape[0] == 4


def test_from_scratch_ignores_the_cache(cache):
    weights = make_weights("test_resnet")
    put_into_cache(cache, "timm/test_resnet.r160_in1k", weights)
    name = "layer1.0.conv1.weight"
    assert not torch.equal(build(pretrained="false")[name], weights[name])


def test_model_without_published_weights_starts_from_scratch(cache, caplog):
    caplog.set_level("INFO", logger="hpo.trial")
    build(checkpoint_name="ghostnet_050")
    assert "starting from scratch" in caplog.text


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("classes", [4, 7])
def test_local_file(tmp_path, caplog, suffix, classes):
    caplog.set_level("INFO", logger="hpo.trial")
    weights = make_weights("test_resnet", classes)
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    loaded = build(pretrained=str(path))
    body = [name for name in weights if not name.startswith("fc.")]
    assert [name for name in body if not torch.equal(loaded[name], weights[name])] == []
    assert torch.equal(loaded["fc.weight"], weights["fc.weight"]) == (classes == 4)
    assert ("fc.weight has another size" in caplog.text) == (classes == 7)


def test_local_file_for_another_image_size(tmp_path):
    save_file(timm.create_model("test_vit", num_classes=4, img_size=160).state_dict(), tmp_path / "vit.safetensors")
    loaded = build(checkpoint_name="test_vit", pretrained=str(tmp_path / "vit.safetensors"))
    assert loaded["pos_embed"].shape[1] == (32 // 16) ** 2 + 1


def test_best_checkpoint_of_a_trial_is_such_a_file(raw_data, configure, tmp_path):
    with Training(configure(), raw_data, tmp_path / "first") as training:
        training.run_epoch()
    file = tmp_path / "first" / "checkpoint" / "best-0001" / "weights.safetensors"
    config = configure({"model.timm_image.pretrained": str(file)})
    with Training(config, raw_data, tmp_path / "second") as training:
        start = training._compute.model.state_dict()
        assert [name for name, value in load_file(file).items() if not torch.equal(start[name], value)] == []


class Evil:
    def __reduce__(self):
        return shutil.rmtree, ("/nonexistent-of-this-test",)


def write_evil(path):
    torch.save({"state_dict": {"fc.weight": Evil()}}, path)


def write_other_model(path):
    torch.save(make_weights("test_vit"), path)


def write_noise(path):
    path.write_bytes(b"not a checkpoint at all")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_evil, "not a readable weights file"),
        (write_other_model, "holds the weights of another model"),
        (write_noise, "not a readable weights file"),
        (lambda path: None, "is not a weights file"),
    ],
)
def test_file_that_cannot_be_used_is_refused_on_one_line(tmp_path, write, words):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(WeightsError, match=words) as refused:
        build(pretrained=str(path))
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
