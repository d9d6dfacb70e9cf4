"""Rows of a table through a trial: images, numbers and categories joined in one model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from hpo.data.columns import TableRow
from hpo.data.pictures import Pictures
from hpo.data.read import open_split
from hpo.errors import SlurmtuneError, TrialError, UsageError
from hpo.trial import Training
from hpo.trial.checkpoint import Store
from hpo.trial.fusion import FusedModel, build_model
from hpo.trial.inference import TrainedModel
from hpo.trial.loader import Loader
from hpo.trial.middle import Middle
from hpo.trial.optimizer import create_optimizer
from hpo.trial.pixels import Delivery
from hpo.trial.rows import stack_rows
from hpo.trial.soup import average
from hpo.trialconfig import TrialConfig, is_of_tables, known_keys
from hpo.trialkeys import OptimConfig

Configure = Callable[..., TrialConfig]
WITHOUT_TABLE = {"model.names": ["timm_image"]}


def trained(config: TrialConfig, data: Path, directory: Path) -> dict[str, Any]:
    with Training(config, data, directory) as training:
        while not training.finished:
            training.run_epoch()
        return {**training.metrics, "best": training.best_value}


def best(directory: Path) -> TrainedModel:
    [checkpoint, *_] = Store(directory / "checkpoint", 1, "max").ranking()
    return TrainedModel(checkpoint.load_meta(), checkpoint.load_weights())


def rows_of(data: Path, split: str) -> list[TableRow]:
    shards = open_split(data, split)
    pictures = Pictures(shards)
    assert shards.image_shape
    found = []
    for i in range(len(shards)):
        images = [
            np.frombuffer(pictures.read_bytes(2 * i + column), np.uint8).reshape(shards.image_shape)
            if pictures.present[i, column]
            else None
            for column in range(2)
        ]
        found.append(TableRow(tuple(images), shards.numbers[i], shards.codes[i]))
    return found


@pytest.fixture(scope="module")
def run(table_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six epochs of everything."""
    directory = tmp_path_factory.mktemp("run")
    values = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": "false",
        "optim.lr": 1e-2,
        "optim.max_epochs": 6,
        "env.batch_size": 16,
        "env.num_workers": 1,
        "env.accelerator": "cpu",
        "data.modality_dropout": 0.1,
    }
    trained(TrialConfig.from_flat(values), table_data, directory)
    return directory


def test_the_table_tells_what_the_images_do_not(
    run: Path, table_data: Path, tmp_path: Path, configure: Configure
) -> None:
    truth = open_split(table_data, "validation").labels
    right = (best(run).predict(rows_of(table_data, "validation")).argmax(1) == truth).mean()
    assert right >= 0.75  # each fifth row does not say it
    images = trained(configure(WITHOUT_TABLE, metric="val_accuracy"), table_data, tmp_path / "images")
    assert images["best"] < right - 0.1


def test_prediction_is_what_the_trial_measured(run: Path, table_data: Path) -> None:
    [checkpoint, *_] = Store(run / "checkpoint", 1, "max").ranking()
    meta = checkpoint.load_meta()
    assert meta["columns"]["images"] == ["front", "back"]
    assert meta["config"]["model.fusion_mlp.hidden_sizes"] == [128]
    found = best(run).predict(rows_of(table_data, "validation"))
    truth = open_split(table_data, "validation").labels
    loss = -np.log(found[np.arange(len(truth)), truth]).mean()
    assert loss == pytest.approx(meta["metrics"]["val_loss"], abs=1e-5)


def test_anything_may_be_missing(run: Path, table_data: Path) -> None:
    model = best(run)
    row = rows_of(table_data, "validation")[1]
    nothing = TableRow((None, None), np.full(2, math.nan), np.zeros(1, np.int32))
    unknown = TableRow(row.images, row.numbers, np.ones(1, np.int32))
    found = model.predict([row, nothing, unknown, nothing])
    assert np.isfinite(found).all()
    assert (found[1] == found[3]).all()
    assert not np.allclose(found[0], found[1])
    far = [TableRow(row.images, np.array([pieces, 1.0]), row.codes) for pieces in (1e6, 1e9)]
    assert np.allclose(*model.predict(far), atol=1e-6)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {
            "optim.peft": "lora",
            "optim.ema_decay": 0.9,
            "data.random_erasing.prob": 0.5,
            "model.timm_image.train_transforms": ["random_crop", "trivial_augment"],
        },
    ],
    ids=["plain", "lora-ema-erasing-policies"],
)
def test_going_on_is_as_never_stopped(
    table_data: Path, tmp_path: Path, configure: Configure, keys: dict[str, Any]
) -> None:
    config = configure({"optim.max_epochs": 3, "data.modality_dropout": 0.2, **keys})
    trained(config, table_data, tmp_path / "whole")
    for epochs in (1, 2):
        with Training(config, table_data, tmp_path / "parts") as training:
            for _ in range(epochs):
                training.run_epoch()
    whole, parts = (Store(tmp_path / name / "checkpoint", 1, "max").newest() for name in ("whole", "parts"))
    assert whole
    assert parts
    assert (whole.epoch, parts.epoch) == (3, 3)
    left = parts.load_weights()
    assert all(torch.equal(tensor, left[name]) for name, tensor in whole.load_weights().items())


def test_pieces_of_a_batch_keep_images_and_rows_together(
    table_data: Path, tmp_path: Path, configure: Configure
) -> None:
    """test_vit has no batch norm: accumulated gradients are those of the batch, but for rounding."""
    keys = {"model.timm_image.checkpoint_name": "test_vit", "optim.max_epochs": 1, "optim.optim_type": "sgd",
            "model.fusion_mlp.drop_rate": 0, "model.numerical_mlp.drop_rate": 0,
            "model.categorical_mlp.drop_rate": 0}  # fmt: skip
    whole = trained(configure(keys), table_data, tmp_path / "whole")
    parts = trained(configure({**keys, "env.per_gpu_batch_size": 3}), table_data, tmp_path / "parts")
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-3)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_holds_the_images_of_its_rows(table_data: Path, on_device: bool) -> None:
    shards = open_split(table_data, "train")
    pictures = Pictures(shards)
    labels = torch.from_numpy(shards.labels)
    loader = Loader(shards, labels, Delivery(32, on_device, pinned=False), 16, 1)
    seen = 0
    for batch in loader.evaluation(Middle(True, 1.0)):
        assert batch.rows is not None
        for first, last in ((0, 5), (5, 16)):
            part = batch.part(first, last)
            assert part.rows is not None
            numbers = pictures.numbers(np.arange(seen + first, seen + last))
            stored = [pictures.read_bytes(int(number)) for number in numbers]
            assert [image.tobytes() for image in part.images.numpy()] == stored
            np.testing.assert_array_equal(part.rows.numbers, shards.numbers[seen + first : seen + last])
            assert int(part.rows.present.sum()) == len(stored)
            assert part.crops is None or len(part.crops.boxes) == len(stored)
        seen += len(batch)
    assert seen == len(shards)
    loader.close()


def test_without_images_none_is_read(table_data: Path, tmp_path: Path, configure: Configure,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def refuse(*_: Any) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr("hpo.data.shards.ShardSet.gather", lambda self, indices, out: len(indices) and refuse())
    keys = {"model.names": ["numerical_mlp", "categorical_mlp", "fusion_mlp"], "optim.max_epochs": 8}
    assert trained(configure(keys, metric="val_roc_auc"), table_data, tmp_path)["best"] > 0.9


def test_the_backbone_is_timms(table_data: Path, configure: Configure) -> None:
    columns = open_split(table_data, "train").columns
    model, feed = build_model(configure(), columns, 2, 32)
    assert isinstance(model, FusedModel)
    weights = {k.removeprefix("image."): v for k, v in model.state_dict().items() if k.startswith("image.")}
    timm.create_model("test_efficientnet", num_classes=0).load_state_dict(weights)
    rows = stack_rows(rows_of(table_data, "validation")[:4])
    outputs = model.train()(torch.zeros(int(rows.present.sum()), 3, feed.size, feed.size), rows)
    outputs.sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert untouched == []


def test_rows_without_any_image_give_all_weights_a_gradient(table_data: Path, configure: Configure) -> None:
    """Ranks whose rows have images wait for those of one whose rows have none."""
    model, _ = build_model(configure(), open_split(table_data, "train").columns, 2, 32)
    empty = [TableRow((None, None), row.numbers, row.codes) for row in rows_of(table_data, "validation")[:4]]
    outputs = model.train()(torch.zeros(0, 3, 32, 32), stack_rows(empty))
    outputs.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert not any(p.grad.any() for name, p in model.named_parameters() if name.startswith("image."))


def test_decay_by_layer_and_partial_training(table_data: Path, configure: Configure) -> None:
    columns = open_split(table_data, "train").columns
    model, _ = build_model(configure({"model.timm_image.checkpoint_name": "test_vit"}), columns, 2, 32)
    groups = create_optimizer(model, OptimConfig(lr_decay=0.5)).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    scales = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert scales["head.weight"] == scales["fusion_mlp.0.weight"] == 1
    assert scales["image.patch_embed.proj.weight"] < scales["image.blocks.1.norm1.weight"] < 1


def test_a_linear_probe_leaves_the_backbone(table_data: Path, tmp_path: Path, configure: Configure) -> None:
    config = configure({"optim.peft": "linear_probe", "optim.max_epochs": 1})
    before = build_model(config, open_split(table_data, "train").columns, 2, 32)[0]
    with Training(config, table_data, tmp_path) as training:
        start = {name: p.clone() for name, p in training._compute.model.named_parameters()}
        training.run_epoch()
        moved = {name for name, p in training._compute.model.named_parameters() if not torch.equal(p, start[name])}
    assert moved
    assert not any(name.startswith("image.") for name in moved)
    assert {"head.weight", "numerical_mlp.layers.0.weight"} <= moved
    assert set(dict(before.named_parameters())) == set(start)


def test_the_soup_is_no_worse(run: Path, table_data: Path) -> None:
    soup = average(Store(run / "checkpoint", 3, "max").ranking(), table_data)
    assert soup.single is not None
    assert soup.value is not None
    assert soup.value >= soup.single


def test_rare_categories_count_as_unknown(table_data: Path, configure: Configure) -> None:
    columns = open_split(table_data, "train").columns
    assert columns
    [shade] = columns.categorical
    assert shade.categories == ("green", "red")
    assert shade.counts[0] > shade.counts[1] > 2
    for keys, known in (
        ({}, [0, 1, 2, 3]),
        ({"data.categorical.minimum_cat_count": shade.counts[0]}, [0, 1, 2, 1]),
        ({"data.categorical.maximum_num_cat": 1}, [0, 1, 2, 1]),
    ):
        model, _ = build_model(configure(keys), columns, 2, 32)
        assert model.categorical_mlp.places.tolist() == known  # type: ignore[union-attr, operator]


OTHERS = {  # every key of tables with another value than its default
    "model.names": ["timm_image", "numerical_mlp"],
    "model.fusion_mlp.hidden_sizes": [32, 16],
    "model.fusion_mlp.activation": "relu",
    "model.fusion_mlp.drop_rate": 0.5,
    "model.numerical_mlp.hidden_size": 16,
    "model.numerical_mlp.num_layers": 2,
    "model.numerical_mlp.activation": "gelu",
    "model.numerical_mlp.drop_rate": 0.5,
    "model.categorical_mlp.hidden_size": 16,
    "model.categorical_mlp.num_layers": 2,
    "model.categorical_mlp.activation": "silu",
    "model.categorical_mlp.drop_rate": 0.5,
    "data.categorical.minimum_cat_count": 1000,
    "data.categorical.maximum_num_cat": 1,
    "data.modality_dropout": 0.5,
}


def test_every_key_changes_the_training(table_data: Path, tmp_path: Path, configure: Configure) -> None:
    assert set(OTHERS) == {name for name in known_keys() if is_of_tables(name)}
    base = {"optim.max_epochs": 1}
    usual = trained(configure(base), table_data, tmp_path / "usual")["train_loss"]
    assert trained(configure(base), table_data, tmp_path / "again")["train_loss"] == usual
    for number, (name, value) in enumerate(OTHERS.items()):
        other = trained(configure({**base, name: value}), table_data, tmp_path / str(number))["train_loss"]
        assert other != usual, name


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data.mixup.turn_on": True}, "cannot be mixed"),
        ({"model.names": ["fusion_mlp"]}, "nothing"),
        ({"model.names": ["hf_text"]}, "model.names must be one of"),
        ({"model.fusion_mlp.hidden_sizes": [0]}, "at least 1"),
        ({"model.fusion_mlp.hidden_sizes": 128}, "list of whole numbers"),
        ({"model.fusion_mlp.weight": 0.1}, "AutoMM's model.fusion_mlp.weight"),
        ({"model.ft_transformer.num_blocks": 3}, "AutoMM's model.ft_transformer"),
    ],
)
def test_refused_by_name(
    table_data: Path, tmp_path: Path, configure: Configure, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises((TrialError, UsageError), match=said) as error:
        Training(configure(keys), table_data, tmp_path)
    assert isinstance(error.value, SlurmtuneError)
    assert "\n" not in str(error.value)
