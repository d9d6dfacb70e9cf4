"""Optimisers by name, what they decay, and the learning rate of each update."""

from __future__ import annotations

import pytest
import timm
import torch
from accelerate import Accelerator

from hpo.errors import TrialError
from hpo.trial import optimizer as optimizer_module
from hpo.trial import train
from hpo.trial.freezing import freeze
from hpo.trial.optimizer import _can_be_fused, clip_gradients, create_optimizer, learning_rate, set_learning_rate
from hpo.trialconfig import TrialConfig
from hpo.trialkeys import OptimConfig


@pytest.fixture(scope="module")
def model():
    return timm.create_model("test_vit", num_classes=4, img_size=32)


@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph=True")
@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lion", "muon", "adahessian"])
def test_families_train(raw_data, configure, tmp_path, name):
    keys = {"optim.optim_type": name, "optim.lr": 2e-3, "model.timm_image.checkpoint_name": "test_vit"}
    result = train(configure({**keys, "optim.max_epochs": 3}), raw_data, tmp_path, lambda metrics: True)
    assert result.reason == "max_epochs"
    assert result.metrics["train_loss"] < 1.6


@pytest.mark.parametrize("name", ["adamw", "sgd", "adagrad"])
def test_fused_updates_are_the_same(name, monkeypatch):
    """Up to float noise, with the groups that weight decay, layer decay and the classifier's rate make."""
    after = []
    for fused in (True, False):
        monkeypatch.setattr(optimizer_module, "_can_be_fused", lambda _, fused=fused: fused)
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=4, img_size=32)
        config = OptimConfig(optim_type=name, lr=1e-2, weight_decay=0.1, lr_decay=0.8, lr_mult=3.0)
        optimizer = create_optimizer(model, config)
        assert bool(optimizer.defaults["fused"]) == fused
        for step in range(5):
            set_learning_rate(optimizer, 1e-2 / (step + 1))
            for parameter in model.parameters():  # not a loss's: Adam makes much of gradients that are noise
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        after.append(model.state_dict())
    for key, value in after[0].items():
        assert torch.allclose(value, after[1][key], atol=1e-5), key


def test_what_torch_cannot_fuse_is_not():
    assert [
        name for name in ("adam", "lamb", "lion", "lookahead_adamw", "rmsprop", "adamww") if _can_be_fused(name)
    ] == ["adam"]


def test_weight_decay_spares_norms_and_biases(model):
    optimizer = create_optimizer(model, OptimConfig(weight_decay=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert "head.weight" in decayed
    assert not [name for name in decayed if name.endswith(".bias") or "norm" in name]


def test_layer_decay_slows_the_first_layers(model):
    optimizer = create_optimizer(model, OptimConfig(lr_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    first, last, head = model.blocks[0].mlp.fc1.weight, model.blocks[-1].mlp.fc1.weight, model.head.weight
    assert rates[id(head)] == 1.0
    assert rates[id(first)] < rates[id(last)] < rates[id(head)]


def test_momentum(model):
    assert create_optimizer(model, OptimConfig(optim_type="sgd", momentum=0.5)).defaults["momentum"] == 0.5
    assert create_optimizer(model, OptimConfig(optim_type="SGD", momentum=0)).defaults["nesterov"] is False


def test_betas_and_eps(model):
    chosen = create_optimizer(model, OptimConfig(betas=[0.8, 0.95], eps=1e-3)).defaults
    assert (list(chosen["betas"]), chosen["eps"]) == ([0.8, 0.95], 1e-3)
    assert create_optimizer(model, OptimConfig()).defaults["betas"] == (0.9, 0.999)
    with pytest.raises(TrialError, match=r"optim.betas is \[0.9, 0.9\], but sgd has none; leave it out, or search"):
        create_optimizer(model, OptimConfig(optim_type="sgd", betas=[0.9, 0.9]))
    with pytest.raises(TrialError, match=r"optim.momentum is 0.5, but adamw has none"):
        create_optimizer(model, OptimConfig(momentum=0.5))
    with pytest.raises(TrialError, match=r"adan has 3 of them"):
        create_optimizer(model, OptimConfig(optim_type="adan", betas=[0.9, 0.9]))


def test_the_classifier_has_a_rate_of_its_own(model):
    optimizer = create_optimizer(model, OptimConfig(lr_mult=10.0, lr_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.head.weight)] == rates[id(model.head.bias)] == 10.0
    assert rates[id(model.blocks[0].mlp.fc1.weight)] < 1
    assert len(rates) == len(list(model.parameters())) == sum(len(g["params"]) for g in optimizer.param_groups)


def test_both_classifiers_of_a_model_made_for_distillation():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=2)
    optimizer = create_optimizer(model, OptimConfig(lr_mult=10.0))
    quick = {id(p) for group in optimizer.param_groups if group.get("lr_scale") == 10.0 for p in group["params"]}
    heads = [*model.head.parameters(), *model.head_dist.parameters()]
    assert quick == {id(parameter) for parameter in heads}
    freeze(model, TrialConfig.from_flat({"optim.peft": "linear_probe"}))
    assert [parameter for parameter in model.parameters() if parameter.requires_grad] == heads


@pytest.mark.parametrize("algorithm", ["norm", "value", "agc"])
def test_gradients_are_clipped(model, algorithm):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    parameters = list(model.parameters())
    clip_gradients(Accelerator(cpu=True), parameters, OptimConfig(gradient_clip_val=0))
    assert all(torch.equal(p.grad, old) for p, old in zip(parameters, before, strict=True))
    clip_gradients(
        Accelerator(cpu=True), parameters, OptimConfig(gradient_clip_val=0.5, gradient_clip_algorithm=algorithm)
    )
    norm = torch.stack([p.grad.norm() for p in parameters]).norm().item()
    if algorithm == "norm":
        assert norm == pytest.approx(0.5, rel=1e-3)
    elif algorithm == "value":
        assert {p.grad.max().item() for p in parameters} == {0.5}
    else:  # each row by half of its own norm, of at least 1e-3
        weight = model.head.weight
        assert torch.allclose(weight.grad.norm(dim=1), 0.5 * weight.norm(dim=1).clamp(min=1e-3), rtol=1e-4)
    for parameter in parameters:
        parameter.grad = None


def test_unknown_and_unusable_names(model):
    with pytest.raises(TrialError, match="Did you mean 'adamw'"):
        create_optimizer(model, OptimConfig(optim_type="adamww"))
    if not torch.cuda.is_available():
        with pytest.raises(TrialError, match=r"'bnbadam8bit' cannot be used here \(CUDA required"):
            create_optimizer(model, OptimConfig(optim_type="bnbadam8bit"))


def rates(total=100, **keys):
    config = OptimConfig(**{"lr": 2.0, **keys})
    return [learning_rate(config, update, total) for update in range(total)]


def test_warm_up_as_a_share_and_as_a_number():
    share, number = rates(warmup_steps=0.1), rates(warmup_steps=10)
    assert share == number
    assert share[:10] == pytest.approx([0.2 * (update + 1) for update in range(10)])
    assert rates(warmup_steps=0)[0] == 2.0
    assert rates(total=5, warmup_steps=10)[-1] == 2.0
    assert rates(warmup_steps=1)[0] == 2.0


def test_schedules():
    cosine, linear, constant = (
        rates(warmup_steps=0, lr_schedule=name) for name in ("cosine_decay", "linear_decay", "constant")
    )
    assert constant == [2.0] * 100
    assert linear[50] == pytest.approx(1.0)
    assert cosine[50] == pytest.approx(1.0)
    assert cosine[25] > linear[25] > linear[75] > cosine[75] > 0
    assert sorted(cosine, reverse=True) == cosine


def test_schedules_end_where_they_are_told():
    for name in ("cosine_decay", "linear_decay"):
        assert rates(total=1000, warmup_steps=0, lr_schedule=name, end_lr=0.5)[-1] == pytest.approx(0.5, abs=2e-3)
        assert rates(warmup_steps=0, lr_schedule=name, end_lr=0.5)[0] == 2.0
