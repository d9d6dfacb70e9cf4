"""The model as a graph without Python: torch.export's .pt2 and ONNX, each run again and compared before it counts."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpo.errors import TrialError, UsageError

GRAPHS = {"torch-export": "model.pt2", "onnx": "model.onnx"}
_ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
_BATCH = 32


def require_packages(kinds: list[str]) -> None:
    """Raises UsageError when a kind needs packages that are not installed."""
    missing = [name for name in _ONNX_NEEDS if "onnx" in kinds and not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(f"--also onnx needs {', '.join(missing)}: pip install {' '.join(missing)}, then try again.")


def write_graph(kind: str, folder: Path, model: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Writes the graph of `model` for any batch size into `folder`; returns what the file, opened again, gives.

    Args:
        inputs: float32 (N, 3, S, S), normalised, N at least 2.
    Raises:
        TrialError: the model cannot be written so.
    """
    path = folder / GRAPHS[kind]
    write = _write_program if kind == "torch-export" else _write_onnx
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    quiet = io.StringIO()
    try:
        with torch.inference_mode(), contextlib.redirect_stdout(quiet):
            plain = model.to(memory_format=torch.contiguous_format).eval()
            write(path, plain, inputs[:2].contiguous())
            return (_run_program if kind == "torch-export" else _run_onnx)(path, inputs)
    except Exception as error:  # exporters fail in their own hundred ways
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrialError(f"{type(model).__name__} cannot be written as {kind}: {first[:200]}") from error


def _write_program(path: Path, model: nn.Module, example: torch.Tensor) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    torch.export.save(program, path)


def _run_program(path: Path, inputs: torch.Tensor) -> np.ndarray:
    model = torch.export.load(path).module()
    return np.concatenate([model(part).numpy() for part in inputs.split(_BATCH)])


def _write_onnx(path: Path, model: nn.Module, example: torch.Tensor) -> None:
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (example,), path, dynamo=True, dynamic_shapes=dynamic, input_names=["images"],
        output_names=["outputs"], external_data=False, verbose=False,
    )  # fmt: skip


def _run_onnx(path: Path, inputs: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": part.numpy()})[0] for part in inputs.split(_BATCH)])
