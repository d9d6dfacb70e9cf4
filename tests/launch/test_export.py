"""launch/export.py: the exported winner is the trained one, to the last image, for a program that knows only timm."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hpo.data.read import open_split
from hpo.errors import TrialError
from hpo.export.check import ask_plain_timm, require_same
from hpo.export.images import read_file
from hpo.export.model import ExportedModel
from hpo.results.read import open_results, read_results
from launch.export import main

ANSWERS = """
import sys, numpy as np, timm, torch
folder, pixels, out = sys.argv[1:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
images = (torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2) / 255.0)
mean, std = (torch.tensor(data[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
with torch.no_grad():
    np.save(out, model((images - mean) / std).numpy())
assert not [name for name in sys.modules if name.startswith(("hpo", "launch", "ray"))]
print(data["input_size"], data["crop_mode"], *model.pretrained_cfg["label_names"])
"""


@pytest.fixture
def export(call: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    return partial(call, main)


Export = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("trial", ["0000", "0001"])  # one of them is a ViT at an image size that is not its own
def test_plain_timm_gives_the_accuracy_of_the_search_to_the_last_image(
    trained_sweep: Path, exported: dict[str, tuple[Path, str]], tmp_path: Path, trial: str
) -> None:
    model, errors = exported[trial]
    shards = open_split(trained_sweep.parent / "data", "validation")
    pixels = np.empty((len(shards), 32, 32, 3), np.uint8)
    shards.gather(np.arange(len(shards)), pixels)
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-I", "-c", ANSWERS, model, tmp_path / "pixels.npy", tmp_path / "out.npy"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(3,", "32,", "32)", "center", "hat", "pants", "shoes"]
    right = int((np.load(tmp_path / "out.npy").argmax(1) == shards.labels).sum())
    row = next(row for row in read_results(open_results(trained_sweep)).rows if row.trial == trial)
    assert right == round((row.value or 0) * len(shards))
    assert f"{len(shards)} of {len(shards)} classes the same" in errors
    assert "done" in errors.splitlines()[-1]


def test_without_a_trial_it_is_the_best_one(trained_sweep: Path, tmp_path: Path, export: Export) -> None:
    code, output, _ = export(trained_sweep, "--out", tmp_path / "model")
    assert (code, output) == (0, f"{tmp_path / 'model'}\n")
    best = read_results(open_results(trained_sweep)).best
    described = json.loads((tmp_path / "model" / "slurmtune.json").read_text())
    assert best is not None
    assert described["origin"] == {"trial": best.trial, "epoch": best.best_epoch, "val_accuracy": best.value}
    card = (tmp_path / "model" / "README.md").read_text()
    for part in ("local-dir:MODEL", "hat, pants, shoes", f"optim.lr: {best.params['optim.lr']}", "from scratch"):
        assert part in card
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "slurmtune.json", "README.md"}


def test_nothing_is_ever_overwritten(trained_sweep: Path, tmp_path: Path, export: Export) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years")
    code, output, errors = export(trained_sweep, "--out", tmp_path / "model")
    assert (code, output) == (2, "")
    assert "overwrites nothing" in errors
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "thesis.txt"]


def test_a_model_that_answers_otherwise_is_noticed(exported: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    folder = shutil.copytree(exported["0001"][0], tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    ours = ExportedModel(folder)._trained.forward(torch.from_numpy(pixels)).numpy()
    assert require_same(ours, ours, "timm") == 0
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrialError, match="answers otherwise than the trial"):
        require_same(ours, ask_plain_timm(folder, pixels).outputs, "timm")
    (folder / "config.json").unlink()
    with pytest.raises(TrialError, match="plain timm cannot run the exported model"):
        ask_plain_timm(folder, pixels)


def test_damaged_weights_are_never_exported(trained_sweep: Path, tmp_path: Path, export: Export) -> None:
    copy = shutil.copytree(trained_sweep, tmp_path / "copy")
    best = read_results(open_results(copy)).best
    assert best is not None
    for path in copy.glob(f"trials/{best.trial}/checkpoint/best-*/weights.safetensors"):
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    code, _, errors = export(copy, "--out", tmp_path / "kept", "--data", tmp_path / "nowhere")
    assert code == 0  # best/ holds them still
    assert "32 made-up images (no data at hand)" in errors
    shutil.rmtree(copy / "best")
    code, _, errors = export(copy, "--out", tmp_path / "none")
    assert code == 6
    assert f"trial {best.trial} has no intact weights" in errors
    assert "--trial 000" in errors
    assert not list(tmp_path.glob("*none*")) + list(tmp_path.glob(".none*"))


def test_other_data_than_the_trial_saw_are_refused(
    trained_sweep: Path, trained_regression: Path, tmp_path: Path, export: Export
) -> None:
    code, _, errors = export(trained_sweep, "--out", tmp_path / "model", "--data", trained_regression.parent / "data")
    assert code == 5
    assert "holds other images" in errors


@pytest.fixture(scope="module")
def answers(trained_sweep: Path, exported: dict[str, tuple[Path, str]]) -> tuple[torch.Tensor, np.ndarray]:
    """All validation images, normalised (N, 3, 32, 32), and plain timm's logits for them."""
    shards = open_split(trained_sweep.parent / "data", "validation")
    pixels = np.empty((len(shards), 32, 32, 3), np.uint8)
    shards.gather(np.arange(len(shards)), pixels)
    model = timm.create_model(f"local-dir:{exported['0000'][0]}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    images = ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
    with torch.inference_mode():
        return images, model(images).numpy()


def test_torch_export_gives_the_logits_of_plain_timm(
    exported: dict[str, tuple[Path, str]], answers: tuple[torch.Tensor, np.ndarray]
) -> None:
    folder, errors = exported["0000"]
    assert "model.pt2, opened again: outputs within" in errors
    program = torch.export.load(folder / "model.pt2").module()
    images, logits = answers
    with torch.inference_mode():
        np.testing.assert_allclose(program(images).numpy(), logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(program(images[:5]).numpy(), logits[:5], rtol=1e-4, atol=1e-5)


def test_onnx_gives_the_logits_of_plain_timm(
    exported: dict[str, tuple[Path, str]], answers: tuple[torch.Tensor, np.ndarray]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, errors = exported["0000"]
    assert "model.onnx, opened again: outputs within" in errors
    assert "model.onnx, opened again" in (folder / "README.md").read_text()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images, logits = answers
    for count in (len(images), 5):
        [given] = session.run(["outputs"], {"images": images[:count].numpy()})
        np.testing.assert_allclose(given, logits[:count], rtol=1e-4, atol=1e-5)


def test_timms_own_transform_of_a_photograph_gives_what_predict_gives(
    exported: dict[str, tuple[Path, str]], photos: Path, tmp_path: Path
) -> None:
    """From the file on: photographs of other shapes and sizes than the model's input, as they are."""
    folder = shutil.copytree(exported["0001"][0], tmp_path / "model")
    about = json.loads((folder / "slurmtune.json").read_text())
    (folder / "slurmtune.json").write_text(json.dumps({**about, "images": None}))  # not shrunk when they were prepared
    ours, theirs = ExportedModel(folder), timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    files = sorted(photos.rglob("*.jpg"))[::3]
    assert len({Image.open(path).size for path in files}) > 3
    with torch.inference_mode():
        batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
        expected = theirs(batch).softmax(1).numpy()
    given = np.stack(list(ours.predict(read_file(path, ours.policy) for path in files)))
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_the_tutorials_program_counts_what_timm_alone_gets_right(
    exported: dict[str, tuple[Path, str]], photos: Path, tmp_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "judge.py").write_text(program)
    command = [sys.executable, "-I", tmp_path / "judge.py", exported["0000"][0], photos]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    model = ExportedModel(exported["0000"][0])
    model.meta["images"] = None
    files = sorted(photos.glob("*/*"))
    guessed = [model.columns[answer.argmax()] for answer in model.predict(read_file(f, model.policy) for f in files)]
    right = sum(name == path.parent.name for name, path in zip(guessed, files, strict=True))
    assert done.stdout == f"{right} of {len(files)} right, accuracy {right / len(files):.4f}\n"


def test_onnx_without_its_packages_names_what_it_needs(
    trained_sweep: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, names = importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in names else find(name, *more))
    code, _, errors = export(trained_sweep, "--out", tmp_path / "model", "--also", "onnx")
    assert code == 2
    assert f"--also onnx needs {', '.join(names)}: pip install {' '.join(names)}, then try again" in errors
    assert not (tmp_path / "model").exists()


def test_a_graph_that_answers_otherwise_is_refused(
    trained_sweep: Path, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = torch.export.save
    monkeypatch.setattr(torch.export, "save", lambda program, path: write(_other(program), path))
    code, _, errors = export(trained_sweep, "--out", tmp_path / "model", "--also", "torch-export")
    assert code == 5
    assert "model.pt2 answers otherwise than the trial" in errors
    assert not (tmp_path / "model").exists()


def _other(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """`program` with one of its weights doubled."""
    name, weight = next((n, w) for n, w in program.state_dict.items() if w.ndim == 4)
    program.state_dict[name] = torch.nn.Parameter(weight.detach() * 2, requires_grad=False)
    return program


@pytest.mark.parametrize("trial", ["7", "best!"])
def test_an_unknown_trial_is_refused(trained_sweep: Path, tmp_path: Path, export: Export, trial: str) -> None:
    code, _, errors = export(trained_sweep, "--trial", trial, "--out", tmp_path / "model")
    assert code == 2
    assert f"no trial {trial!r}" in errors


def test_ray_reads_the_sweep_after_a_move(trained_sweep: Path, tmp_path: Path, export: Export) -> None:
    from ray.tune import ExperimentAnalysis, ResultGrid

    code, _, errors = export(trained_sweep, "--format", "ray", "--out", tmp_path / "for ray")
    assert code == 0, errors
    moved = shutil.move(tmp_path / "for ray", tmp_path / "moved")
    grid = ResultGrid(ExperimentAnalysis(str(moved)))
    results = read_results(open_results(trained_sweep))
    assert len(grid) == len(results.rows)
    assert grid.num_errors == 0
    best = grid.get_best_result("val_accuracy", "max", scope="all")
    assert results.best is not None
    assert best.config["optim.lr"] == results.best.params["optim.lr"]
    assert best.config["env.batch_size"] == 16
    frame = best.metrics_dataframe
    assert frame is not None
    assert frame["val_accuracy"].tolist() == [value for _, value in results.best.curve]
    assert str(best.path).startswith(str(moved))
