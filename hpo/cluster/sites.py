"""Site files: what is particular about a cluster, written down once for all sweeps there.

A site is chosen by --site, else by $SLURMTUNE_SITE, else by `site:` in slurmtune/config.yaml below $XDG_CONFIG_HOME
(~/.config) or $XDG_CONFIG_DIRS (/etc/xdg), which an administrator can write. It is a path of a file, or a name:
NAME.yaml is looked for in slurmtune/sites of these folders, then in slurm/sites of the checkout. docs/sites.md lists
the keys.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.cluster.request import SlurmRequest
from hpo.cluster.words import check_line, check_whole, parse_gpus, parse_memory, parse_minutes
from hpo.config import SLURM_KEYS, TERM_KEYS, parse_yaml
from hpo.data.storage import LOCAL_DIRS_VARIABLE
from hpo.errors import UsageError, nearest
from hpo.layout import absolute

VARIABLE = "SLURMTUNE_SITE"
_SHIPPED = Path(__file__).resolve().parents[2] / "slurm" / "sites"
_KEYS = ("slurm", "limits", "modules", "activate", "environment", "setup", "runs", "weights", "offline", "node_local",
         "interface")  # fmt: skip
_ACTIVATIONS = {"venv": (), "conda": ("base",), "apptainer": ("bind", "options")}  # way -> what may stand beside it
_LIMITS = ("time", "nodes", "gpus_per_node", "cpus_per_task", "mem")


@dataclass(frozen=True, kw_only=True)
class Site:
    """One site file, checked. `path`: '' of a sweep that chose none."""

    path: str = ""
    slurm: Mapping[str, Any] = field(default_factory=dict)  # defaults below the sweep file's and the flags
    limits: Mapping[str, Any] = field(default_factory=dict)  # a request beyond them is refused
    modules: tuple[str, ...] = ()
    activate: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()  # further lines of shell
    runs: str = ""  # where sweeps go
    weights: str = ""  # HF_HOME
    offline: bool = True
    node_local: tuple[str, ...] = ()  # directories of a host itself, the best first; $NAMES are the job's
    interface: str = ""  # network interface by which hosts reach each other

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def python(self) -> str:
        """The Python of a job, '' for the one that submits."""
        if "venv" in self.activate:
            return f"{_expand(self.activate['venv'], 'activate.venv')}/bin/python"
        return "python3" if self.activate else ""

    @property
    def container(self) -> str:
        """The command that a job's own commands are the arguments of, '' without a container. $ROOT and $RUN are the
        script's."""
        if "apptainer" not in self.activate:
            return ""
        binds = ["$ROOT", "${RUN:-$PWD}", *self.activate.get("bind", [])]
        words = ["apptainer", "exec", *self.activate.get("options", ["--nv"])]
        image = _expand(self.activate["apptainer"], "activate.apptainer")
        return " ".join([*words, *(f'--bind "{path}"' for path in binds), shlex.quote(image)])

    def check(self, request: SlurmRequest) -> None:
        """Refuses what the site does not allow.

        Raises:
            UsageError: names the flag and the limit.
        """
        for key, limit in self.limits.items():
            value = getattr(request, key)
            if value is not None and _size(key, value) > _size(key, limit):
                flag = f"--{key.replace('_', '-')}"
                raise UsageError(
                    f"{flag} {value}: site {self.name} allows at most {limit} ({self.path}); ask for less."
                )

    def lines(self) -> list[str]:
        """The site's part of a batch script: shell, to be run before Python."""
        lines = (
            [f"module load {' '.join(map(shlex.quote, self.modules))} || {_failed('module load')}"]
            if self.modules
            else []
        )
        if "venv" in self.activate:
            script = f"{_expand(self.activate['venv'], 'activate.venv')}/bin/activate"
            lines.append(f". {shlex.quote(script)} || {_failed(script)}")
        if "conda" in self.activate:
            lines += self._conda_lines()
        settings = {**self.environment, **self.weights_environment()}
        if self.node_local:
            settings[LOCAL_DIRS_VARIABLE] = os.pathsep.join(self.node_local)
        if self.interface:
            settings["SLURMTUNE_INTERFACE"] = self.interface
        lines += [f"export {name}={_double_quoted(value)}" for name, value in settings.items()]
        lines += self.setup
        return ["set +eu", *lines, "set -eu"] if lines else []

    def weights_environment(self) -> dict[str, str]:
        """The variables that say where weights are, for this process as for a job."""
        home = {"HF_HOME": str(absolute(_expand(self.weights, "weights")))} if self.weights else {}
        return home if self.offline else {**home, "HF_HUB_OFFLINE": "0"}

    def _conda_lines(self) -> list[str]:
        name = shlex.quote(str(self.activate["conda"]))
        base = self.activate.get("base")
        where = f"{_expand(base, 'activate.base')}" if base else "$(conda info --base)"
        activate = f"conda activate {name} || {_failed('conda activate')}"
        return [f'. "{where}/etc/profile.d/conda.sh"', activate]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value != getattr(Site(), name)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Site:
        lists: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in (values or {}).items()
        }
        return cls(**lists)


def choose_site(named: str | None, environ: Mapping[str, str] = os.environ) -> Site:
    """The site of flag --site, of the environment or of the person's configuration; an empty one where none is named.

    Raises:
        UsageError: there is no such site, or its file is wrong.
    """
    name = named or environ.get(VARIABLE) or _configured(environ)
    if not name or name == "none":
        return Site()
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        return read_site(absolute(name))
    folders = site_folders(environ)
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return read_site(folder / f"{name}.yaml")
    known = sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})
    raise UsageError(f"there is no site {name!r}.{nearest(name, known)} Known: {', '.join(known) or 'none'}; "
                     "launch/doctor.py writes a first one.")  # fmt: skip


def site_folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where a site's file is looked for, the person's own first."""
    return [*(folder / "sites" for folder in config_folders(environ)), _SHIPPED]


def config_folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    own = environ.get("XDG_CONFIG_HOME") or "~/.config"
    shared = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    return [absolute(folder) / "slurmtune" for folder in (own, *shared.split(os.pathsep)) if folder]


def _configured(environ: Mapping[str, str]) -> str:
    for folder in config_folders(environ):
        path = folder / "config.yaml"
        if path.is_file():
            content = _read(path)
            for key in content:
                if key != "site":
                    raise UsageError(f"{path}: unknown key {key!r}; it takes `site: NAME`.")
            return str(content.get("site") or "")
    return ""


def read_site(path: Path) -> Site:
    """The site in file `path`.

    Raises:
        UsageError: it cannot be read, or says something that it cannot.
    """
    try:
        return parse_site(_read(path), str(path))
    except UsageError as error:
        text = str(error)
        raise UsageError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a YAML mapping, got {content!r}.")
    return content


def parse_site(content: Mapping[str, Any], path: str = "") -> Site:
    """A site file's content, checked.

    Raises:
        UsageError: an unknown key, or a value of another kind.
    """
    _check_keys("", content, _KEYS)
    slurm = _mapping(content, "slurm")
    _check_keys("slurm.", slurm, (*SLURM_KEYS, *TERM_KEYS))
    SlurmRequest.from_words(slurm)
    limits = _mapping(content, "limits")
    _check_keys("limits.", limits, _LIMITS)
    for key, value in limits.items():
        _size(key, value)
    offline = content.get("offline", True)
    if not isinstance(offline, bool):
        raise UsageError(f"offline must be true or false, got {offline!r}.")
    site = Site(
        path=path,
        slurm=slurm,
        limits=limits,
        modules=tuple(_module(name) for name in _list(content, "modules")),
        activate=_check_activation(_mapping(content, "activate")),
        environment=_check_environment(_mapping(content, "environment")),
        setup=tuple(check_line("setup", line) for line in _list(content, "setup")),
        runs=_text(content, "runs"),
        weights=_text(content, "weights"),
        offline=offline,
        node_local=tuple(_place(path) for path in _list(content, "node_local")),
        interface=_interface(_text(content, "interface")),
    )
    site.lines()  # names of variables that are not set are found here
    return site


def expand_runs(site: Site) -> str | None:
    """Where the site wants sweeps to go, as a path; None where it does not say."""
    return _expand(site.runs, "runs") if site.runs else None


def _check_keys(prefix: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            raise UsageError(f"unknown key {prefix}{key}.{nearest(str(key), known)} Known: {', '.join(known)}.")


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{key} must be a mapping, got {value!r}.")
    return {name: entry for name, entry in (value or {}).items() if entry is not None}


def _list(content: Mapping[str, Any], key: str) -> list[str]:
    value = content.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise UsageError(f"{key} must be a list of texts, got {value!r}.")
    return value


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{key} must be text, got {value!r}.")
    return check_line(key, value)


def _module(name: str) -> str:
    if not re.fullmatch(r"[\w./+@=-]+", name):
        raise UsageError(f"modules: {name!r} is no module's name, as cuda/12.4.")
    return name


def _interface(name: str) -> str:
    if name and not re.fullmatch(r"[\w.:@-]{1,15}", name):
        raise UsageError(f"interface: {name!r} is no network interface, as ib0; `ip -br addr` lists them.")
    return name


def _place(path: str) -> str:
    if not re.match(r"[/$~]", path) or os.pathsep in path:
        raise UsageError(f"node_local: {path!r} must be a path from the root, or begin with a variable.")
    return path


def _check_activation(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        return {}
    ways = [way for way in _ACTIVATIONS if way in value]
    if len(ways) != 1:
        raise UsageError(f"activate takes one of {', '.join(_ACTIVATIONS)}, got {', '.join(value) or 'none'}.")
    _check_keys("activate.", value, (ways[0], *_ACTIVATIONS[ways[0]]))
    for key in (ways[0], "base"):
        if key in value and not (isinstance(value[key], str) and value[key]):
            raise UsageError(f"activate.{key} must be text, got {value[key]!r}.")
    for key in ("bind", "options"):
        _list(value, key)
    return value


def _check_environment(value: dict[str, Any]) -> dict[str, str]:
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)) or isinstance(text, (dict, list, bool)):
            raise UsageError(f"environment: {name}: {text!r} is no variable with a text.")
    return {name: check_line(f"environment {name}", text) for name, text in value.items()}


def _size(key: str, value: Any) -> int:
    """`value` of a limit as a number that can be compared."""
    if key == "time":
        return parse_minutes(str(value))
    if key == "mem":
        return parse_memory(str(value))
    if key == "gpus_per_node":
        return parse_gpus(key, value).count
    return check_whole(key, value, 1)


def _expand(path: str, key: str) -> str:
    """`path` with ~ and the variables of whoever submits."""
    found = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111
    unset = re.search(r"\$\{?(\w+)", found)
    if unset:
        raise UsageError(f"{key}: {path!r} names ${unset.group(1)}, which is not set here.")
    return found


def _failed(what: str) -> str:
    said = shlex.quote(f"slurmtune: {what} failed on this host; see the site file")
    return f"{{ echo {said} >&2; exit 4; }}"


def _double_quoted(value: str) -> str:
    """For the shell, variables in it to be put in by the job."""
    return '"' + re.sub(r'(["\\`])', r"\\\1", str(value)) + '"'
