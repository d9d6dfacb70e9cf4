"""Checkpoints of one trial: whole or not there, verified before use, the weights written once an epoch.

    checkpoint/last-0007/  weights.safetensors state.pt meta.json MANIFEST.json   to go on from; the two newest
    checkpoint/best-0004/  weights.safetensors meta.json MANIFEST.json            the best `keep` epochs

Each is filled under a temporary name, made durable, sealed by a manifest of sizes and sha256, then renamed; older ones
go only afterwards. Best comes before last, so that whoever goes on from last-N has best-N. Weights are in timm's names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hpo.layout import sync_folder, write_json

WEIGHTS, STATE, META, MANIFEST = "weights.safetensors", "state.pt", "meta.json", "MANIFEST.json"
_LAST_KEPT = 2  # when the newest turns out to be damaged, the one before is there
_TEMPORARY = ".tmp-"
_NAME = re.compile(r"(last|best)-(\d{4,})")
_BLOCK = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    epoch: int

    def load_weights(self) -> dict[str, Tensor]:
        return load_file(self.path / WEIGHTS)

    def load_state(self) -> dict[str, Any]:
        """What `Store.save` was given as state. Plain data and tensors only: nothing in the file is executed."""
        return torch.load(self.path / STATE, map_location="cpu", weights_only=True)

    def load_meta(self) -> dict[str, Any]:
        return json.loads((self.path / META).read_text(encoding="utf-8"))

    def is_intact(self) -> bool:
        """Whether every file has the size and the sha256 of the manifest."""
        try:
            files = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"]
            return all(_fingerprint(self.path / name) == known for name, known in files.items())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False


class Store:
    """The checkpoints in one directory. `mode` is 'max' or 'min', the direction in which values get better."""

    def __init__(self, directory: Path, keep: int, mode: str) -> None:
        self._directory, self._keep, self._sign = directory, keep, 1 if mode == "max" else -1
        directory.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Removes what a crash left half written. For who writes here: a reader's trial may be at work on it."""
        for leftover in self._directory.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest intact one to go on from; damaged ones are passed over with a warning."""
        for checkpoint in reversed(self._list("last")):
            if checkpoint.is_intact():
                return checkpoint
            logger.warning("checkpoint %s is damaged or incomplete and is passed over", checkpoint.path.name)
        return None

    def newest_epoch(self) -> int:
        """By name alone; 0 without one."""
        return max((checkpoint.epoch for checkpoint in self._list("last")), default=0)

    def ranking(self) -> list[Checkpoint]:
        """The best epochs, best first; of equals the earlier one."""
        valued = [(self._value(checkpoint), checkpoint) for checkpoint in self._list("best")]
        ranked = sorted(valued, key=lambda pair: (-pair[0], pair[1].epoch))
        return [checkpoint for value, checkpoint in ranked if value > -math.inf]

    def save(
        self, epoch: int, value: float, weights: Mapping[str, Tensor], state: dict[str, Any], meta: dict[str, Any]
    ) -> Path:
        """Writes epoch `epoch` as last, and as best if `value` of the metric earns it. Returns the path of last."""
        last = self._directory / f"{_TEMPORARY}last-{uuid.uuid4().hex[:8]}"
        last.mkdir()
        save_file(_storable(weights), last / WEIGHTS)
        torch.save(state, last / STATE)
        write_json(last / META, {"format": 1, "epoch": epoch, "value": value if math.isfinite(value) else None, **meta})
        for name in (WEIGHTS, STATE):
            _sync_file(last / name)
        prints = {name: _fingerprint(last / name) for name in (WEIGHTS, STATE, META)}
        if self._earns_place(epoch, value):
            self._save_best(epoch, last, prints)
        path = self._publish(last, f"last-{epoch:04d}", prints)
        self._prune(epoch)
        return path

    def _save_best(self, epoch: int, last: Path, prints: Mapping[str, Any]) -> None:
        best = self._directory / f"{_TEMPORARY}best-{uuid.uuid4().hex[:8]}"
        best.mkdir()
        for name in (WEIGHTS, META):
            _link_or_copy(last / name, best / name)
        self._publish(best, f"best-{epoch:04d}", {name: prints[name] for name in (WEIGHTS, META)})

    def _publish(self, temporary: Path, name: str, prints: Mapping[str, Any]) -> Path:
        write_json(temporary / MANIFEST, {"format": 1, "files": prints})
        sync_folder(temporary)
        final = self._directory / name
        if final.exists():  # a trial that went on from an earlier epoch comes here again
            final.rename(self._directory / f"{_TEMPORARY}old-{uuid.uuid4().hex[:8]}")
        temporary.rename(final)
        sync_folder(self._directory)
        return final

    def _prune(self, epoch: int) -> None:
        kept = {checkpoint.path for checkpoint in self.ranking()[: self._keep]}
        kept |= {checkpoint.path for checkpoint in self._list("last") if epoch - _LAST_KEPT < checkpoint.epoch <= epoch}
        for checkpoint in self._list("last") + self._list("best"):
            if checkpoint.path not in kept:
                shutil.rmtree(checkpoint.path, ignore_errors=True)
        for old in self._directory.glob(f"{_TEMPORARY}old-*"):
            shutil.rmtree(old, ignore_errors=True)

    def _earns_place(self, epoch: int, value: float) -> bool:
        if not math.isfinite(value):
            return False
        others = [self._value(other) for other in self.ranking() if other.epoch != epoch]
        return len(others) < self._keep or self._sign * value > sorted(others, reverse=True)[self._keep - 1]

    def _list(self, kind: str) -> list[Checkpoint]:
        """Checkpoints of a kind by epoch, intact or not."""
        names = ((path, _NAME.fullmatch(path.name)) for path in self._directory.iterdir())
        found = [Checkpoint(path, int(match[2])) for path, match in names if match and match[1] == kind]
        return sorted(found, key=lambda checkpoint: checkpoint.epoch)

    def _value(self, checkpoint: Checkpoint) -> float:
        """Its metric, turned so that more is better; minus infinity where there is none."""
        try:
            value = checkpoint.load_meta()["value"]
            return self._sign * float(value)
        except (OSError, ValueError, KeyError, TypeError):
            return -math.inf


def _storable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the host, each with memory of its own: safetensors has no shared tensors."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        host = tensor.detach().to("cpu").contiguous()
        result[name] = host.clone() if host.data_ptr() in seen else host
        seen.add(host.data_ptr())
    return result


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
        return {"bytes": stream.tell(), "sha256": digest.hexdigest()}


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under a second name, where the file system has hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        _sync_file(target)
