"""Which pretrained weights a sweep can ask for, and whether they are at hand: light, and without the network.

launch/prefetch.py fetches them into the cache of Hugging Face and writes down what it has fetched, with hashes, in
HF_HOME/slurmtune-weights.json. Jobs run offline; submit.py refuses a sweep whose weights are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hpo.cache import Cache
from hpo.errors import UsageError, WeightsError
from hpo.layout import absolute, write_json
from hpo.requirements import is_certain
from hpo.space import Choice, Space
from hpo.trialconfig import default_value

MODEL, PRETRAINED = "model.timm_image.checkpoint_name", "model.timm_image.pretrained"
WAYS = ("auto", "true", "false")  # what `pretrained` can be, when it is no file
_MANIFEST = "slurmtune-weights.json"
_VERSION = 1
SEARCH_DEADLINE_S = 120  # timm and torch are imported from a network file system
_NAMED = 3  # models in a message
_BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """One file of weights as the manifest has it."""

    source: str  # repository on the hub, or URL
    revision: str  # the hub's commit; '' of a URL
    path: str  # below HF_HOME as a relative path, elsewhere from the root
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Wanted:
    """What a space can name: models whose published weights it may ask for, and files."""

    models: tuple[str, ...]
    files: tuple[Path, ...]
    downloads: bool  # some of them by `true`, which may download in the trial where there is a network


def wanted_weights(space: Space) -> Wanted:
    """All weights that a configuration of `space` can name."""
    names = space.constants.get("model.names", ["timm_image"])
    if not any("timm_image" in str(name) for name in names):  # a table without images
        return Wanted((), (), False)
    models: dict[str, None] = {}
    files: dict[Path, None] = {}
    downloads = False
    for model in _options(space, MODEL):
        ways = _options(space, PRETRAINED, str(model))
        files.update({absolute(way): None for way in ways if way not in WAYS})
        if {"auto", "true"} & set(ways):
            models[str(model)] = None
        downloads |= "true" in ways
    return Wanted(tuple(models), tuple(files), downloads)


def _options(space: Space, key: str, model: str | None = None) -> list[Any]:
    """What `key` can be; with `model`, of the configurations of that model."""
    if key in space.constants:
        return [space.constants[key]]
    found: list[Any] = []
    always = False
    for dimension in space.dimensions:
        if dimension.key != key or not isinstance(dimension.domain, Choice):
            continue
        of_models = dimension.when.get(MODEL)
        if model is not None and of_models and model not in of_models:
            continue
        found += dimension.domain.options
        always |= set(dimension.when) <= {MODEL}
    return found if always or is_certain(space, key) else [*found, default_value(key)]


def cache_home(environ: Mapping[str, str] = os.environ) -> Path:
    """HF_HOME, as huggingface_hub finds it."""
    usual = Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return absolute(environ.get("HF_HOME") or usual)


def is_offline(usual: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a trial does not ask the hub: as HF_HUB_OFFLINE says, else as is `usual` (in jobs on SLURM it is)."""
    said = environ.get("HF_HUB_OFFLINE")
    return usual if said is None else said.upper() not in ("0", "NO", "FALSE", "OFF", "")


def read_manifest(home: Path) -> dict[str, CachedFile]:
    """model -> its file, as the last prefetch left it; {} when there was none.

    Raises:
        UsageError: the manifest is damaged or of a newer version.
    """
    path = home / _MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']}")
        return {model: CachedFile(**entry) for model, entry in content["models"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be used ({error}); remove it and run launch/prefetch.py again.") from None


def write_manifest(home: Path, entries: Mapping[str, CachedFile]) -> Path:
    """Adds `entries` to the manifest of `home`."""
    merged = {**read_manifest(home), **entries}
    path = home / _MANIFEST
    write_json(path, {"version": _VERSION, "models": {name: asdict(merged[name]) for name in sorted(merged)}})
    return path


def is_in_place(entry: CachedFile, home: Path) -> bool:
    """Whether the file is there with its size; its hash is compared by prefetch only."""
    try:
        return (home / entry.path).stat().st_size == entry.bytes
    except OSError:
        return False


def hash_file(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def check_weights(space: Space, remedy: str, may_download: bool = False) -> None:
    """Refuses a sweep of which some trial would find no weights.

    `may_download`: trials have a network, so that `pretrained: true` fetches for itself.

    Raises:
        WeightsError: names what is missing, and `remedy`, the command that fetches it.
    """
    unknown = unknown_weights(space, may_download)
    if unknown:
        refuse_missing(_search_caches(unknown), remedy)


def unknown_weights(space: Space, may_download: bool = False) -> list[str]:
    """The models of which some trial wants weights that neither the manifest of cache_home() nor an earlier search
    tells: only timm itself, which takes torch and seconds, can say whether a cache holds them, see `refuse_missing`.

    Raises:
        WeightsError: a file that the space names is not there.
    """
    wanted = wanted_weights(space)
    for file in wanted.files:
        if not file.is_file():
            raise WeightsError(f"{PRETRAINED}: there is no file {file}; give the path of a weights file, or auto.")
    if may_download and wanted.downloads:
        return []
    home = cache_home()
    known = read_manifest(home)
    return [
        model
        for model in wanted.models
        if not (model in known and is_in_place(known[model], home)) and not _is_remembered(model)
    ]


def refuse_missing(found: Mapping[str, str | None], remedy: str) -> None:
    """Remembers where weights were found. `found`: model -> the file, '' where timm publishes none, None: missing; as
    hpo.trial.fetch answers.

    Raises:
        WeightsError: some are missing; names them and `remedy`.
    """
    for model, file in found.items():
        if file is not None:
            Cache("weights").put(_place_key(model), file)
    missing = [model for model, file in found.items() if file is None]
    if not missing:
        return
    named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
    raise WeightsError(
        f"no pretrained weights of {named} below {cache_home()}: run `{remedy}` here or on any machine with network "
        f"and the same HF_HOME, or start from scratch with {PRETRAINED}: false."
    )


def _is_remembered(model: str) -> bool:
    """Whether an earlier search found the model's weights, and they are there still; or found that there are none."""
    file = Cache("weights").get(_place_key(model))
    return file is not None and (file == "" or Path(file).is_file())


def _place_key(model: str) -> dict[str, Any]:
    """What decides where timm finds a model's weights."""
    caches = {name: os.environ.get(name) for name in ("HF_HUB_CACHE", "TORCH_HOME")}
    return {"model": model, "home": str(cache_home()), "timm": installed("timm"), **caches}


def installed(package: str) -> str:
    """Its version, '' where it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _search_caches(models: Iterable[str]) -> dict[str, str | None]:
    """Where the caches of this machine hold the weights of `models`, by timm's own word: a process of its own, some
    seconds."""
    command = [sys.executable, "-m", "hpo.trial.fetch", *models]
    root = str(Path(__file__).resolve().parents[1])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SEARCH_DEADLINE_S, check=True,
                              env=environ)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())[-300:]
        raise cannot_search(said) from None
    return dict(json.loads(done.stdout))


def cannot_search(said: str) -> WeightsError:
    return WeightsError(f"the caches of weights cannot be searched ({said}); is timm installed?")
