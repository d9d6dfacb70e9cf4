"""The moving average of the weights: what is judged and kept, while the raw weights go on."""

from __future__ import annotations

import pytest
import timm
import torch

from hpo.trial import Training
from hpo.trial.inference import TrainedModel

KEYS = {"optim.ema_decay": 0.8, "optim.ema_warmup": False, "optim.max_epochs": 2}


def follow(training):
    """Runs an epoch; the raw weights after each update."""
    seen, update = [], training._compute.update

    def noted(batch, step):
        loss = update(batch, step)
        seen.append({name: value.clone() for name, value in training._compute.model.state_dict().items()})
        return loss

    training._compute.update = noted
    metrics = training.run_epoch()
    return seen, metrics


def test_the_checkpoint_holds_the_average(raw_data, configure, tmp_path):
    with Training(configure(KEYS), raw_data, tmp_path) as training:
        seen, metrics = follow(training)
        checkpoint = training._saves.newest()
        kept, state = checkpoint.load_weights(), checkpoint.load_state()
        meta = checkpoint.load_meta()
        images = torch.cat([b.images for b in training._validation.evaluation(training._middle)])
        labels = torch.cat([b.targets for b in training._validation.evaluation(training._middle)])
    assert len(seen) == 2
    for name, value in kept.items():
        expected = seen[0][name]  # the first update sets it
        if value.is_floating_point():
            expected = expected * 0.8 + seen[1][name] * 0.2
            assert torch.allclose(value, expected, atol=1e-6), name
        assert torch.equal(state["model"][name], seen[1][name])
    model = TrainedModel(meta, kept)
    guessed = model.forward(images).argmax(1)
    assert (guessed == labels).float().mean().item() == pytest.approx(metrics["val_accuracy"])


def test_warm_up_of_the_decay(raw_data, configure, tmp_path):
    with Training(configure({**KEYS, "optim.ema_decay": 0.999, "optim.ema_warmup": True}), raw_data, tmp_path) as t:
        seen, _ = follow(t)
        kept = t._saves.newest().load_weights()
    share = 1 - 2 ** (-2 / 3)  # of timm: after two updates
    name = "conv_stem.weight"
    assert torch.allclose(kept[name], seen[0][name] * share + seen[1][name] * (1 - share), atol=1e-6)


def test_off_there_is_none(raw_data, configure, tmp_path):
    with Training(configure(), raw_data, tmp_path) as training:
        assert training._compute.judged is training._compute.model
        training.run_epoch()
        assert training._saves.newest().load_state()["model"] is None


def test_other_weights_in_place_are_all_used(configure):
    """LeViT keeps in evaluation what it makes of its attention biases; a soup judges one average after another."""
    config = configure({"model.timm_image.checkpoint_name": "levit_128s"})
    meta = {"config": config.to_flat(), "outputs": 2, "input": {"size": 224}, "task": "classification"}
    first = timm.create_model("levit_128s", num_classes=2).state_dict()
    second = {name: value + 0.5 if "attention_biases" in name else value for name, value in first.items()}
    second["stages.0.blocks.0.attn.attention_biases"][:, ::2] = 3.0
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    model = TrainedModel(meta, first)
    before = model.forward(pixels)
    model.load(second)
    assert torch.equal(model.forward(pixels), TrainedModel(meta, second).forward(pixels))
    assert not torch.equal(model.forward(pixels), before)
