"""Fetches pretrained weights into the caches from which trials load them, hashed.

python -m hpo.trial.fetch MODEL...     # prints, as JSON, where the caches hold their weights; no network
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from hpo.errors import WeightsError
from hpo.trial.weights import cached_file, hub_names
from hpo.weights import CachedFile, hash_file

_TRIES, _FIRST_PAUSE_S = 3, 1.0


@dataclass(frozen=True)
class Remote:
    """Where a model's weights are published."""

    model: str
    source: str  # a repository of the hub, or a URL
    file: str  # in the repository; '' of a URL
    revision: str
    bytes: int  # 0: the server does not say


def has_weights(model: str) -> bool:
    """Whether timm publishes weights of the model."""
    cfg = _cfg(model)
    return cfg is not None and bool(cfg.has_weights)


def _cfg(model: str) -> Any:
    return timm.get_pretrained_cfg(model)


def find_cached(models: Iterable[str]) -> dict[str, str | None]:
    """model -> the file of its weights in a local cache; '' where timm publishes none, None where no cache holds it."""
    found: dict[str, str | None] = {}
    for model in models:
        try:
            file = cached_file(_cfg(model)) if has_weights(model) else ""
        except RuntimeError:  # no such tag of the model: whoever builds it says so
            file = ""
        found[model] = None if file is None else str(file)
    return found


def find_remote(model: str) -> Remote:
    """Asks the hub for the file of the model's weights.

    Raises:
        WeightsError: the hub has none, refuses, or cannot be reached.
    """
    cfg = _cfg(model)
    if not cfg.hf_hub_id:
        return Remote(model, cfg.url, "", "", 0)
    for repository, revision, file in hub_names(cfg):
        try:
            about = _patiently(model, get_hf_file_metadata, hf_hub_url(repository, file, revision=revision))
        except EntryNotFoundError:
            continue
        return Remote(model, repository, file, revision or "", about.size or 0)
    raise WeightsError(f"{cfg.hf_hub_id} on {constants.ENDPOINT} has no file of weights that timm knows of {model}.")


def fetch(remote: Remote, home: Path) -> CachedFile:
    """The model's weights, downloaded unless the cache holds them, and hashed.

    Raises:
        WeightsError: the download failed, or what arrived is not what the hub says it is.
    """
    if remote.file:
        found = _patiently(remote.model, hf_hub_download, remote.source, remote.file, revision=remote.revision or None)
        path = Path(found)
        revision = path.parts[path.parts.index("snapshots") + 1]
    else:
        path, revision = _download_url(remote), ""
    digest = hash_file(path)
    promised = path.resolve().name  # a large file's name in the hub's cache is its SHA-256
    if len(promised) == 64 and promised != digest:
        path.resolve().unlink()
        raise WeightsError(f"{remote.source}/{remote.file} arrived damaged (SHA-256 {digest[:12]}..., promised "
                           f"{promised[:12]}...); it is removed, run this again.")  # fmt: skip
    return CachedFile(source=remote.source, revision=revision, path=_below(path, home), bytes=path.stat().st_size,
                      sha256=digest)  # fmt: skip


def _below(path: Path, home: Path) -> str:
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _download_url(remote: Remote) -> Path:
    """For the few models that are not on the hub: into torch.hub's cache, where timm looks."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(remote.source).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _patiently(remote.model, torch.hub.download_url_to_file, remote.source, str(path), progress=False)
    return path


def _patiently(model: str, ask: Callable[..., Any], *words: Any, **options: Any) -> Any:
    """What `ask` returns; asked again after a pause where the network or the hub failed for the moment."""
    for tries in range(1, _TRIES + 1):
        try:
            return ask(*words, **options)
        except EntryNotFoundError:
            raise
        except Exception as error:  # the clients' trees of network errors differ from version to version
            if tries == _TRIES or not _is_passing(error):
                raise _explain(model, error) from None
            time.sleep(_FIRST_PAUSE_S * 2 ** (tries - 1))
    raise AssertionError("unreachable")


def _explain(model: str, error: Exception) -> WeightsError:
    if isinstance(error, GatedRepoError):
        why = "the hub wants you to agree to their terms; do so in a browser, and set HF_TOKEN."
    elif isinstance(error, RepositoryNotFoundError):
        why = f"{constants.ENDPOINT} has no such repository, or it wants a token (HF_TOKEN)."
    else:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = (f"cannot be downloaded ({type(error).__name__}: {said}); run this where {constants.ENDPOINT} can be "
               "reached (https_proxy, HF_ENDPOINT), with the same HF_HOME.")  # fmt: skip
    return WeightsError(f"weights of {model}: {why}")


def _is_passing(error: Exception) -> bool:
    """Whether it may go better in a moment: too many requests, a server's trouble, a broken connection."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code == 429 or error.response.status_code >= 500
    return not isinstance(error, (ValueError, PermissionError))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.stdout.write(json.dumps(find_cached(sys.argv[1:])))
