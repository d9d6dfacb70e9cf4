"""A search over LoRA, moving averages and augmentation policies, and what is left of it: a plain model."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from hpo import Categorical, MultiModalPredictor


@pytest.mark.ray
def test_lora_is_searched_saved_and_loaded(split, here, small):
    """AutoMM keeps the trained parameters alone and then cannot load them into its base model."""
    small |= {
        "model.timm_image.checkpoint_name": "test_vit",
        "optimization.efficient_finetune": Categorical("lora", "lora_norm"),
        "optimization.lora.r": Categorical(2, 8),
        "optimization.ema_decay": 0.9,
        "model.timm_image.train_transforms": ["resize_shorter_side", "center_crop", "trivial_augment"],
        "optimization.max_epochs": 2,
    }
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(
        split[0], hyperparameters=small, hyperparameter_tune_kwargs={"scheduler": "FIFO", "num_trials": 2}, seed=1
    )
    assert len(predictor.leaderboard()) == 2
    expected = predictor.predict_proba(split[1])
    predictor.save(here / "kept")
    loaded = MultiModalPredictor.load(here / "kept")
    np.testing.assert_allclose(loaded.predict_proba(split[1]), expected, atol=1e-6)
    plain = timm.create_model("test_vit", num_classes=3, img_size=32)
    plain.load_state_dict(load_file(here / "kept" / "model.safetensors"))
    assert torch.isfinite(plain.eval()(torch.zeros(1, 3, 32, 32))).all()
