"""A search over LoRA, moving averages and augmentation policies, and what is left of it: a plain model."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from hpo import Categorical, MultiModalPredictor, Real


@pytest.mark.ray
def test_lora_is_searched_saved_and_loaded(split, here, small):
    """AutoMM keeps the trained parameters alone and then cannot load them into its base model."""
    from ray import tune

    small |= {
        "model.timm_image.checkpoint_name": "test_vit",
        "optimization.efficient_finetune": Categorical("lora", "lora_norm"),
        "optimization.lora.r": Categorical(2, 8),
        "optimization.ema_decay": tune.choice([0.0, tune.uniform(0.8, 0.95)]),
        "data.mixup": Categorical({"turn_on": True, "prob": Real(0.2, 1.0)}, {"turn_on": False}),
        "model.timm_image.train_transforms": ["resize_shorter_side", "center_crop", "trivial_augment"],
        "optimization.max_epochs": 2,
    }
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(
        split[0], hyperparameters=small, hyperparameter_tune_kwargs={"scheduler": "FIFO", "num_trials": 2}, seed=1
    )
    board = predictor.leaderboard()
    assert len(board) == 2
    for trial in predictor.trials():  # a range and a section as one option among others
        params = trial["params"]
        assert (params["optim.ema_decay"] == 0) == (params["optim.ema_decay@option"] == "0.0")
        assert ("data.mixup.prob" in params) == params["data.mixup.turn_on"]
    assert "optim.ema_decay@option" not in predictor.best_config
    assert predictor.best_config["data.mixup.turn_on"] == board["turn_on"][0]
    expected = predictor.predict_proba(split[1])
    predictor.save(here / "kept")
    loaded = MultiModalPredictor.load(here / "kept")
    np.testing.assert_allclose(loaded.predict_proba(split[1]), expected, atol=1e-6)
    plain = timm.create_model("test_vit", num_classes=3, img_size=32)
    plain.load_state_dict(load_file(here / "kept" / "model.safetensors"))
    assert torch.isfinite(plain.eval()(torch.zeros(1, 3, 32, 32))).all()
