"""What a job asks SLURM for, in sbatch's words; hpo.cluster.partitions has the defaults for what was not said.

Standard library only.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpo.cluster.words import (
    CHECKS,
    Gpus,
    check_sbatch_args,
    check_word,
    parse_gpus,
    parse_gres,
    parse_memory,
    parse_minutes,
)
from hpo.config import SLURM_KEYS, TERM_KEYS
from hpo.errors import UsageError

GPU_WORDS = ("gpus-per-node", "gres")
_VARIABLES = {  # sbatch's variables by which people say what holds for all of their jobs
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_TIMELIMIT": "time",
}
_MEMORY = ("mem", "mem_per_gpu", "mem_per_cpu")
_NOT_AS_IT_STANDS = ("gpus_per_node", "gpu_type", "gpus_as", "gres", "exclusive", "job_name", "sbatch_arg")

_SIGNAL_S = 45  # SLURM's USR2 before the walltime, or an eighth of it: the supervisor's own clock comes first


@dataclass(frozen=True, kw_only=True)
class SlurmRequest:
    """One job, in sbatch's words. None: not said; SLURM's or the site's default holds."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu_type: str | None = None  # the site's word for it
    gpus_as: str | None = None  # how the GPUs are asked for: one of GPU_WORDS
    gres: str | None = None  # what else, without the GPUs
    cpus_per_task: int | None = None
    mem: str | None = None  # of a host
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    tmp: str | None = None
    time: str | None = None
    constraint: str | None = None
    exclusive: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    licenses: str | None = None
    begin: str | None = None
    dependency: str | None = None
    nice: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    job_name: str | None = None
    comment: str | None = None
    sbatch_arg: tuple[str, ...] | None = None  # flags of sbatch that have no word here

    @classmethod
    def from_words(cls, words: Mapping[str, Any]) -> SlurmRequest:
        """From flags or a sweep file's `slurm:`; checked here, so that sbatch need not guess. Words that are no
        request to SLURM, as hpo.cluster.terms has them, are passed over.

        Raises:
            UsageError: a value is none of SLURM's forms (see hpo.cluster.words), or two contradict each other.
        """
        values = {name: value for name, value in words.items() if value is not None and name not in TERM_KEYS}
        gpus, gpus_as = _read_gpus(values)
        for name, value in values.items():
            values[name] = CHECKS[name](value) if name in CHECKS else _check(name, value)
        if gpus is not None:
            values |= {"gpus_per_node": gpus.count, "gpu_type": gpus.kind or None, "gpus_as": gpus_as}
        if sum(name in values for name in _MEMORY) > 1:
            raise UsageError(
                f"--{' and --'.join(n.replace('_', '-') for n in _MEMORY if n in values)}: give one of them."
            )
        return cls(**values)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> SlurmRequest:
        """What sbatch's variables ask for. To sbatch they would be stronger than the script; here they are the weakest.

        Raises:
            UsageError: a value is none of SLURM's forms.
        """
        return cls.from_words({word: environ[name] for name, word in _VARIABLES.items() if environ.get(name)})

    def merged(self, stronger: SlurmRequest) -> SlurmRequest:
        """This request with everything that `stronger` says put in its place."""
        said = {name: value for name, value in vars(stronger).items() if value is not None}
        weaker = vars(self)
        if "gpus_per_node" in said:  # another number of GPUs is one of any type, unless it says which
            said.setdefault("gpu_type", stronger.gpu_type)
        if any(name in said for name in _MEMORY):
            weaker = {**weaker, **dict.fromkeys(_MEMORY)}
        if self.sbatch_arg and stronger.sbatch_arg:
            said["sbatch_arg"] = (*self.sbatch_arg, *stronger.sbatch_arg)
        return SlurmRequest(**{**weaker, **said})

    def again(self) -> SlurmRequest:
        """The same for a later job, which waits for nothing: `--begin 16:00` would be tomorrow's, and SLURM refuses a
        dependency on a job that it has forgotten."""
        return replace(self, begin=None, dependency=None)

    def flags(self) -> list[str]:
        """What is asked for, as flags of sbatch."""
        words = [
            f"--{name.replace('_', '-')}={value}"
            for name, value in vars(self).items()
            if value not in (None, 0) and name not in _NOT_AS_IT_STANDS
        ]
        if self.exclusive:
            words.append("--exclusive" if self.exclusive == "yes" else f"--exclusive={self.exclusive}")
        return [*words, *self._gpu_words(), *(self.sbatch_arg or ())]

    def directives(self, job_name: str, log: str) -> list[str]:
        """The #SBATCH lines, without the marker: what is asked for, and what every job of a sweep needs."""
        signal = min(_SIGNAL_S, parse_minutes(self.time) * 60 // 8) if self.time else _SIGNAL_S
        own = [f"--job-name={self.job_name or job_name}", "--ntasks-per-node=1", f"--output={shlex.quote(log)}",
               "--open-mode=append", f"--signal=USR2@{signal}", "--requeue", "--no-kill"]  # fmt: skip
        return [*(_quoted(flag) for flag in self.flags()), *own]

    def _gpu_words(self) -> list[str]:
        gpus = f"{self.gpu_type}:{self.gpus_per_node}" if self.gpu_type else f"{self.gpus_per_node}"
        gres = [self.gres] if self.gres else []
        if self.gpus_per_node and self.gpus_as == "gres":
            return [f"--gres={','.join([f'gpu:{gpus}', *gres])}"]
        flags = [f"--gpus-per-node={gpus}"] if self.gpus_per_node else []
        return flags + [f"--gres={gres[0]}" for _ in gres]


def _quoted(flag: str) -> str:
    """As sbatch reads a #SBATCH line: the value quoted where it must be."""
    name, equals, value = flag.partition("=")
    return f"{name}={shlex.quote(value)}" if equals and re.search(r"[\s'\"#\\]", value) else flag


def _read_gpus(values: dict[str, Any]) -> tuple[Gpus | None, str | None]:
    """Takes all words about GPUs out of `values`, leaves what else --gres asks for; the GPUs, and by which flag."""
    gpus, gpus_as = None, values.pop("gpus_as", None)
    if gpus_as not in (None, *GPU_WORDS):
        raise UsageError(f"gpus_as must be one of {', '.join(GPU_WORDS)}, got {gpus_as!r}.")
    kind = check_word("gpu_type", values.pop("gpu_type")) if "gpu_type" in values else ""
    if "gpus_per_node" in values:
        gpus = parse_gpus("gpus_per_node", values.pop("gpus_per_node"))
    if "gres" in values:
        by_gres, rest = parse_gres(values.pop("gres"))
        if by_gres and gpus and by_gres != gpus:
            raise UsageError("--gres and --gpus-per-node ask for different GPUs; give one of them.")
        if by_gres:
            gpus, gpus_as = by_gres, "gres"
        if rest:
            values["gres"] = rest
    if kind and gpus and not gpus.kind:
        gpus = Gpus(gpus.count, kind)
    elif kind and gpus is None:
        values["gpu_type"] = kind
    if gpus is None and gpus_as:
        values["gpus_as"] = gpus_as
    return gpus, gpus_as


def _check(name: str, value: Any) -> Any:
    if name == "sbatch_arg":
        return check_sbatch_args(value, SLURM_KEYS)
    word = check_word(name, value)
    if name == "time":
        parse_minutes(word)
    elif name in (*_MEMORY, "tmp"):
        parse_memory(word)
    return word
