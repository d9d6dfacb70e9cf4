"""Whether an exported model answers as the trial did: opened by plain timm, in a process that knows nothing of us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.errors import TrialError

_DEADLINE_S = 900
_TOLERANCE = 1e-4  # of the largest output: another order of summation, not another model
_BATCH = 64

# What the other process runs. It imports timm, torch and numpy, and says so.
_SCRIPT = """
import json, sys
import numpy as np, timm, torch
from timm.data import resolve_model_data_config
folder, pixels, answers, batch = sys.argv[1:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
data = resolve_model_data_config(model)
images = np.load(pixels, mmap_mode="r")
assert tuple(images.shape[1:3]) == tuple(data["input_size"][1:]), (images.shape, data)
mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
outputs = []
with torch.inference_mode():
    for first in range(0, len(images), int(batch)):
        part = torch.from_numpy(np.array(images[first:first + int(batch)])).permute(0, 3, 1, 2).float() / 255
        outputs.append(model((part - mean) / std).numpy())
np.save(answers, np.concatenate(outputs))
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("hpo", "launch"))
print(json.dumps({"timm": timm.__version__, "labels": model.pretrained_cfg.get("label_names"), "ours": ours}))
"""


@dataclass(frozen=True)
class Answers:
    """What plain timm gives for the images: float32 (N, C), and what it says of itself."""

    outputs: np.ndarray
    timm: str
    class_names: list[str] | None


def ask_plain_timm(folder: Path, pixels: np.ndarray) -> Answers:
    """The outputs of the model in `folder` for `pixels`, uint8 (N, S, S, 3), from a clean process without network.

    Raises:
        TrialError: plain timm cannot open or run it.
    """
    with tempfile.TemporaryDirectory(prefix="slurmtune-") as place:
        images, answers = Path(place) / "pixels.npy", Path(place) / "answers.npy"
        np.save(images, pixels)
        command = [sys.executable, "-I", "-c", _SCRIPT, str(folder.resolve()), str(images), str(answers), str(_BATCH)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SLURMTUNE_"))}
        environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                command, cwd=place, env=environ, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise TrialError(f"plain timm did not answer for {folder.name} within {_DEADLINE_S} s.") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TrialError(f"plain timm cannot run the exported model ({last}); nothing was exported.")
        said: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if said["ours"]:
            raise TrialError(
                f"the process that should know only timm imported {said['ours'][0]}; nothing was exported."
            )
        return Answers(np.load(answers), said["timm"], said["labels"])


def require_same(ours: np.ndarray, theirs: np.ndarray, where: str) -> float:
    """The largest difference between two outputs (N, C), relative to the largest output.

    Raises:
        TrialError: it is more than rounding.
    """
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        raise TrialError(f"{where} gives outputs {theirs.shape} for {ours.shape}; nothing was exported.")
    difference = float(np.abs(ours - theirs).max() / max(float(np.abs(ours).max()), 1e-12))
    if difference > _TOLERANCE:
        raise TrialError(
            f"{where} answers otherwise than the trial: outputs differ by {difference:.1e} of the largest; "
            "nothing was exported. Please report it with the model's name."
        )
    return difference
