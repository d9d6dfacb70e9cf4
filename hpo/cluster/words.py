"""SLURM's own forms of numbers, times, sizes, GPUs, dependencies and mail, read as sbatch reads them.

Each function takes what a person wrote, and raises UsageError with the forms that there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError, nearest

_UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
_MAIL = ("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "TIME_LIMIT", "TIME_LIMIT_90",
         "TIME_LIMIT_80", "TIME_LIMIT_50")  # fmt: skip
UNLIMITED = ("UNLIMITED", "INFINITE", "N/A")  # limits that are none, as scontrol and sinfo write them
_YEAR_MINUTES = 365 * 24 * 60
_KIND = r"[\w.+-]*[A-Za-z_][\w.+-]*"  # of GPUs: h100, or a slice of one such as 1g.10gb and a100_1g.5gb+me
_DEPENDENCY = re.compile(r"(after(any|ok|notok|burstbuffer)?(:\d+(\+\d+)?)+|singleton)")
_OWN_FLAGS = {  # sbatch's flags that a job of ours has already, and what to give instead
    **dict.fromkeys(("output", "error", "open-mode"), "logs are in the sweep's directory"),
    **dict.fromkeys(("signal", "requeue", "no-requeue", "no-kill", "kill-on-invalid-dep"), "attempts need theirs"),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "ntasks-per-gpu", "tasks-per-node"), "there is one task a host"),
    **dict.fromkeys(
        ("wrap", "parsable", "test-only", "wait", "chdir", "export", "export-file"), "submit.py sees to it"
    ),
    "array": "a sweep is one job, or a pool of jobs by --mode pool",
    "gpus": "give --gpus-per-node",
    "gpus-per-task": "give --gpus-per-node",
}


def check_whole(name: str, value: Any, low: int) -> int:
    """`value` of flag `name` as a whole number of at least `low`."""
    if isinstance(value, bool) or not re.fullmatch(r"\d+", str(value)) or int(value) < low:
        raise UsageError(f"--{name.replace('_', '-')} must be a whole number of at least {low}, got {value!r}.")
    return int(value)


def check_word(name: str, value: Any) -> str:
    """Text without spaces and control characters: it stands in a script."""
    if not re.fullmatch(r"[!-~]+", str(value)) or isinstance(value, (bool, list, dict)):
        raise UsageError(f"--{name.replace('_', '-')} must be one word, got {value!r}.")
    return str(value)


def check_line(name: str, value: Any) -> str:
    """One line of text."""
    text = str(value)
    if not text.strip() or not text.isprintable():
        raise UsageError(f"--{name.replace('_', '-')} must be one line of text, got {value!r}.")
    return text


def parse_minutes(text: str) -> int:
    """Minutes of a SLURM time: 30, 30:00, 1:30:00, 2-0, 2-12:00, 1-0:0:0. Begun minutes count whole. UNLIMITED is a
    year, after which SLURM ends such a job (YEAR_SECONDS in its slurm.h)."""
    if str(text).strip().upper() in UNLIMITED[:2]:
        return _YEAR_MINUTES
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if not match:
        raise UsageError(f"time {text!r} is not one of SLURM's forms: minutes, H:MM:SS, D-H, D-HH:MM:SS.")
    days, a, b, c = (int(part) if part else 0 for part in match.groups())
    if match.group(1):  # D-H[:M[:S]]
        seconds = ((days * 24 + a) * 60 + b) * 60 + c
    elif match.group(4):  # H:M:S
        seconds = (a * 60 + b) * 60 + c
    else:  # M[:S]
        seconds = a * 60 + b
    if seconds <= 0:
        raise UsageError(f"time {text!r} is no time at all; give at least a minute.")
    return -(-seconds // 60)


def format_minutes(minutes: int) -> str:
    """'01:00:00', '1-12:00:00'."""
    days, rest = divmod(minutes, 24 * 60)
    return f"{f'{days}-' if days else ''}{rest // 60:02d}:{rest % 60:02d}:00"


def parse_memory(text: str) -> int:
    """MiB of a SLURM size: 4000 (MiB), 16G, 1T; 0 is all that a host has."""
    match = re.fullmatch(r"(\d+)([KMGT]?)[Bb]?", str(text), re.IGNORECASE)
    if not match:
        raise UsageError(f"memory {text!r} is not one of SLURM's sizes: 16G, 16000M or 16000, a whole number.")
    return int(int(match.group(1)) * _UNITS[match.group(2).upper() or "M"])


@dataclass(frozen=True)
class Gpus:
    """GPUs of a host. `kind`: the site's word for the type, '' for any."""

    count: int
    kind: str = ""


def parse_gpus(name: str, value: Any) -> Gpus:
    """'4', 4, 'h100:4' or, of slices (MIG), '1g.10gb:2'."""
    match = re.fullmatch(rf"(?:({_KIND}):)?(\d+)", "" if isinstance(value, bool) else str(value))
    if not match:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} must be a number of GPUs, or TYPE:NUMBER as in h100:4 or 1g.10gb:2, got {value!r}.")
    return Gpus(int(match.group(2)), match.group(1) or "")


def parse_gres(text: str) -> tuple[Gpus | None, str]:
    """Of 'gpu:h100:4,nvme:1' the GPUs and the rest, 'nvme:1'."""
    gpus, rest = None, []
    for part in check_word("gres", text).split(","):
        match = re.fullmatch(r"(?:gres[:/])?([A-Za-z_]\w*)(?::(.+))?", part)
        if not match:
            raise UsageError(f"--gres takes NAME:NUMBER or NAME:TYPE:NUMBER, several with ',', got {text!r}.")
        if match.group(1) != "gpu":
            rest.append(part)
        elif gpus is not None:
            raise UsageError(f"--gres {text}: one kind of GPU a job; a pool may have workers of several.")
        else:
            said = match.group(2) or "1"
            gpus = parse_gpus("gres", said if ":" in said or said.isdigit() else f"{said}:1")
    return gpus, ",".join(rest)


def count_gpus(text: str) -> dict[str, int]:
    """Of what sinfo says a host has, 'gpu:a100:4(S:0-1),gpu:1g.10gb:7', {'a100': 4, '1g.10gb': 7}; a count without a
    type goes to ''."""
    found: dict[str, int] = {}
    for kind, count in re.findall(rf"(?:^|,)gpu(?::({_KIND}))?:(\d+)", text):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def check_dependency(text: str) -> str:
    """'afterok:1234:1235', 'afterany:12+5', 'singleton', several with ',' (all) or '?' (any)."""
    if not all(_DEPENDENCY.fullmatch(part) for part in re.split(r"[,?]", str(text))):
        forms = "afterok:JOB, afterany:JOB, afternotok:JOB, after:JOB+MINUTES or singleton"
        raise UsageError(f"--dependency takes {forms}, got {text!r}.")
    return str(text)


def check_mail_type(text: str) -> str:
    for word in (words := str(text).upper().split(",")):
        if word not in _MAIL:
            raise UsageError(f"--mail-type {text!r}: there is no {word!r}.{nearest(word, _MAIL)} "
                             f"Known: {', '.join(_MAIL)}.")  # fmt: skip
    return ",".join(words)


def check_exclusive(value: Any) -> str | None:
    """True or '' (hosts to itself), 'user', 'mcs'; None for false."""
    if value in (False, "false"):
        return None
    if value in (True, "", "true", "yes"):
        return "yes"
    if value not in ("user", "mcs", "topo"):
        raise UsageError(f"--exclusive stands alone or is user or mcs, got {value!r}.")
    return str(value)


def check_sbatch_args(values: Any, ours: Iterable[str]) -> tuple[str, ...]:
    """Further flags of sbatch, each as '--flag' or '--flag=value'; none of `ours`, and none that a sweep sets."""
    own, found = {name.replace("_", "-") for name in ours}, []
    for value in values if isinstance(values, (list, tuple)) else [values]:
        match = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", str(value))
        if not match or not str(value).isprintable():
            raise UsageError(f"--sbatch-arg takes one flag of sbatch as --flag or --flag=value, got {value!r}.")
        if match.group(1) in own:
            raise UsageError(f"--sbatch-arg {value}: give --{match.group(1)} itself.")
        if match.group(1) in _OWN_FLAGS:
            raise UsageError(f"--sbatch-arg {value} is not for you to set: {_OWN_FLAGS[match.group(1)]}.")
        found.append(str(value))
    return tuple(found)


CHECKS: dict[str, Callable[[Any], Any]] = {  # what a word of SlurmRequest must be; the others are one word each
    "nodes": lambda value: check_whole("nodes", value, 1),
    "cpus_per_task": lambda value: check_whole("cpus-per-task", value, 1),
    "dependency": check_dependency,
    "mail_type": check_mail_type,
    "exclusive": check_exclusive,
    "comment": lambda value: check_line("comment", value),
}
