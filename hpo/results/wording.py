"""How numbers, times and configurations are written for people: the same in the terminal, the log and the report."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpo.options import without_options

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"}  # not text in YAML 1.1


def one_line(text: Any) -> str:
    """`text` without line breaks and control characters: an error's message may hold anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def short(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` cut to `width` characters, its end marked when something is missing."""
    if len(text) <= width:
        return text
    return text[: max(0, width - len(ellipsis))].rstrip() + ellipsis[:width]


def value_text(value: Any) -> str:
    """A parameter's value in few digits: 0.0051234 -> '0.005123', None -> '-'."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(value_text(item) for item in value) or "none"
    return str(value).lower() if isinstance(value, bool) else one_line(value)


def metric_format(values: Iterable[float | None]) -> Callable[[float | None], str]:
    """A way to write these values of one metric with the same decimals, about four digits of the typical one."""
    sizes = [abs(value) for value in values if value is not None]
    typical = statistics.median(sizes) if sizes else 0.0
    decimals = 4 if typical < 10 else 3 if typical < 100 else 2 if typical < 1000 else 1

    def write(value: float | None) -> str:
        if value is None:
            return "-"
        rounded_away = value != 0 and abs(value) < 10**-decimals
        return f"{value:.4g}" if rounded_away or abs(value) >= 1e5 else f"{value:.{decimals}f}"

    return write


def duration(seconds: float) -> str:
    """'45 s', '12 min 05 s', '3 h 20 min', '2 days 4 h'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def moment(seconds: float) -> str:
    """Unix seconds as this machine's local time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def count(number: int, noun: str, plural: str = "") -> str:
    """'1 trial', '3 trials'."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def configuration_yaml(searched: Mapping[str, Any], fixed: Mapping[str, Any]) -> str:
    """`hyperparameters:` of a sweep file that holds exactly this configuration. YAML 1.1 and 1.2 read it alike."""
    lines = [f"  {key}: {yaml_value(value)}" for key, value in without_options(searched).items()]
    lines += [f"  {key}: {yaml_value(value)}  # fixed" for key, value in fixed.items() if key not in searched]
    return "\n".join(["hyperparameters:", *(lines or ["  {}"])]) + "\n"


def yaml_value(value: Any) -> str:
    """`value` in YAML's one-line form, every digit kept."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{exponent}" if e else mantissa
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(yaml_value(item) for item in value)}]"
    return json.dumps(value)
