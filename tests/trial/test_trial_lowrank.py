"""LoRA: what it adapts, what moves, and that what is kept is a plain timm model."""

from __future__ import annotations

import pytest
import timm
import torch

from hpo.errors import TrialError
from hpo.trial import Training
from hpo.trial.inference import TrainedModel
from hpo.trial.lowrank import add_adapters, load_merged, merged_weights, unmerged_weights
from hpo.trialkeys import LoraConfig

VIT = {"model.timm_image.checkpoint_name": "test_vit", "optim.peft": "lora", "optim.lr": 2e-2}


def adapted(name, config=None, **options):
    model = timm.create_model(name, num_classes=4, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = add_adapters(model, config or LoraConfig(), model.get_classifier())
    return model.eval(), parameters, before


def names(model):
    return {key.split(".parametrizations")[0] for key in unmerged_weights(model)}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_merged_it_is_the_same_model(name):
    """Depthwise convolutions included."""
    model, parameters, before = adapted(name)
    images = torch.randn(2, 3, 160, 160)
    plain = timm.create_model(name, num_classes=4).eval()
    plain.load_state_dict(before)
    assert torch.equal(model(images), plain(images))  # adapters start as nothing
    torch.manual_seed(1)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(merged_weights(model))
    assert not torch.allclose(plain(images), torch.zeros(1))
    assert torch.allclose(model(images), plain(images), rtol=1e-4, atol=1e-4)
    again, *_ = adapted(name)
    load_merged(again, merged_weights(model), unmerged_weights(model))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_which_layers():
    model, parameters, _ = adapted("test_vit")
    assert names(model) == {f"blocks.{i}.attn.{part}" for i in range(len(model.blocks)) for part in ("qkv", "proj")}
    assert max(parameter.shape[1] for parameter in parameters if parameter.shape[0] > 8) == 8
    convolutional, *_ = adapted("test_resnet")
    assert "conv1.0" not in names(convolutional)
    assert not any(name.startswith("fc") for name in names(convolutional))
    assert len(names(convolutional)) > 8
    picked, parameters, _ = adapted("test_vit", LoraConfig(r=2, filter=[r"mlp\.fc\d"]))
    assert names(picked) == {f"blocks.{i}.mlp.fc{n}" for i in range(len(picked.blocks)) for n in (1, 2)}
    assert {min(parameter.shape) for parameter in parameters} == {2}
    with pytest.raises(TrialError, match=r"optim.lora.filter \['query'\] matches no linear or convolution layer"):
        adapted("test_vit", LoraConfig(filter=["query"]))
    with pytest.raises(TrialError, match="is not a regular expression"):
        adapted("test_vit", LoraConfig(filter=["("]))


@pytest.mark.parametrize("peft", ["lora", "lora_bias", "lora_norm"])
def test_only_adapters_and_the_classifier_move(raw_data, configure, tmp_path, peft):
    with Training(configure({**VIT, "optim.peft": peft}), raw_data, tmp_path) as training:
        model = training._compute.model
        before = {name: value.clone() for name, value in model.named_parameters()}
        training.run_epoch()
        moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        kept = training._saves.newest()
        weights, meta = kept.load_weights(), kept.load_meta()
        pixels = next(iter(training._validation.evaluation(training._middle))).images
        model.eval()
        with torch.no_grad():
            own = model(training._compute._normalise(pixels.permute(0, 3, 1, 2)))
    adapters = {name for name in before if name.endswith((".up", ".down"))}
    head = {name for name in before if name.startswith("head.")}
    others = {
        "lora": set(),
        "lora_bias": {name for name in before if name.endswith(".bias")},
        "lora_norm": {name for name in before if "norm" in name},
    }[peft]
    assert adapters | head <= moved <= adapters | head | others
    assert peft == "lora" or len(moved - adapters - head) > 5
    assert set(weights) == set(timm.create_model("test_vit", num_classes=4, img_size=32).state_dict())
    assert torch.allclose(TrainedModel(meta, weights).forward(pixels), own, atol=1e-5)


def test_a_frozen_batch_norm_keeps_its_statistics(raw_data, configure, tmp_path):
    """And a trained one does not."""
    moved = {}
    for peft in ("linear_probe", "bit_fit", "lora", "norm_fit", None):
        keys = {"optim.peft": peft, "model.timm_image.checkpoint_name": "test_resnet", "optim.max_epochs": 1}
        with Training(configure(keys), raw_data, tmp_path / str(peft)) as training:
            before = {name: value.clone() for name, value in training._compute.model.named_buffers()}
            training.run_epoch()
            after = dict(training._compute.model.named_buffers())
            moved[peft] = sum(not torch.equal(value, before[name]) for name, value in after.items() if "mean" in name)
    assert moved["linear_probe"] == moved["bit_fit"] == moved["lora"] == 0
    assert moved["norm_fit"] == moved[None] > 5
