"""sbatch's words as flags, the same for every command that submits jobs."""

from __future__ import annotations

import argparse
from typing import Any

from hpo.config import SLURM_KEYS

_SHORT = {"partition": "-p", "account": "-A", "qos": "-q", "nodes": "-N", "cpus_per_task": "-c", "time": "-t",
          "constraint": "-C", "nodelist": "-w", "exclude": "-x", "licenses": "-L", "begin": "-b", "dependency": "-d",
          "job_name": "-J"}  # fmt: skip
_OTHER = {"gpus_per_node": ("--gpus",)}
_HELP = {
    "partition": ("NAME", "default: the sweep file's, else the site's"),
    "account": ("NAME", "to be charged"),
    "qos": ("NAME", "quality of service"),
    "reservation": ("NAME", "of hosts"),
    "nodes": ("N", "hosts; of a pool: workers; default: 1"),
    "gpus_per_node": ("[TYPE:]N", "as 4 or h100:4; default: 2, or what the partition's hosts have"),
    "gpu_type": ("TYPE", "of the GPUs, the site's word for it"),
    "gpus_as": ("WORD", "gpus-per-node or gres: the flag that the site wants GPUs asked for by"),
    "gres": ("LIST", "generic resources: gpu:h100:4, or what else a host is to have"),
    "cpus_per_task": ("N", "CPUs a host; default: its share with the GPUs"),
    "mem": ("SIZE", "memory a host as 64G, 0: all of it; default: its share with the GPUs"),
    "mem_per_gpu": ("SIZE", "instead of --mem"),
    "mem_per_cpu": ("SIZE", "instead of --mem"),
    "tmp": ("SIZE", "local disk that a host must have"),
    "time": ("TIME", "walltime: minutes, H:MM:SS, D-H, D-HH:MM:SS; default: 1 hour, or the partition's limit"),
    "constraint": ("FEATURES", "that hosts must have"),
    "exclusive": ("user", "hosts to itself, with all their CPUs and memory"),
    "nodelist": ("HOSTS", "with these hosts"),
    "exclude": ("HOSTS", "without these hosts"),
    "licenses": ("LIST", "that the job needs"),
    "begin": ("WHEN", "not before, as 16:00 or now+1hour"),
    "dependency": ("JOBS", "after other jobs, as afterok:1234"),
    "nice": ("N", "lowers the priority"),
    "mail_type": ("EVENTS", "mail at BEGIN, END, FAIL, REQUEUE, TIME_LIMIT_90 ..., ALL"),
    "mail_user": ("ADDRESS", "to whom"),
    "job_name": ("NAME", "default: the sweep's name"),
    "comment": ("TEXT", "in SLURM's records; default: what sweep it is, and where"),
    "sbatch_arg": ("FLAG", "any other flag of sbatch, as --sbatch-arg=--switches=1; repeatable"),
}


def add_slurm_flags(group: argparse._ArgumentGroup) -> None:
    """One flag for each word of hpo.cluster.request."""
    for key in SLURM_KEYS:
        metavar, text = _HELP[key]
        flag = f"--{key.replace('_', '-')}"
        names = [name for name in (_SHORT.get(key), flag, *_OTHER.get(key, ())) if name]
        options: dict[str, Any] = {"metavar": metavar, "help": text}
        if key == "sbatch_arg":
            options |= {"action": "append"}
        elif key == "exclusive":
            options |= {"nargs": "?", "const": True}
        group.add_argument(*names, **options)


def slurm_words(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said by those flags, for SlurmRequest.from_words."""
    return {key: getattr(arguments, key) for key in SLURM_KEYS}


def as_flags(words: dict[str, Any]) -> list[str]:
    """`words` as a command line again."""
    flags: list[str] = []
    for key, value in words.items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, (list, tuple)):
            flags += [f"{flag}={one}" for one in value]
        elif value is True:
            flags.append(flag)
        elif value is not None:
            flags.append(f"{flag}={value}")
    return flags
