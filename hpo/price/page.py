"""The price in a few lines for a person, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hpo.check.corners import spell_model
from hpo.price.forecast import slowness
from hpo.price.measured import Measured
from hpo.price.quote import Quote
from hpo.price.words import between, span
from hpo.results.wording import count, duration

_BUSY = 1.4  # times as slow as when idle, from which on it is worth a word


def price_lines(quote: Quote) -> list[str]:
    """A table of paces, then what the sweep takes."""
    lines = [f"price      at {quote.measured.place.name}"]
    lines += ["  model, size                              share   parameters   memory   epoch   opening"]
    lines += _kind_lines(quote.measured)
    found = quote.forecast
    hours = "GPU-hours" if quote.gpus else "CPU-hours"
    lines += [
        f"  trials     {between(found.epochs, '.0f')} epochs in all, {span(found.work_s)} of work for one place; "
        f"{duration(quote.least_s)} if each ended after an epoch, {duration(quote.most_s)} if none ended early",
        f"  wall time  {span(found.wall_s)}, {count(found.nodes, 'host')}, {count(found.places, 'place')} for trials",
        f"  paid for   {between(quote.paid, '.3g')} {hours}, all hosts from start to end",
    ]
    lines += [f"  {line}" for line in quote.notes]
    return [*lines, *(f"  busy       {text}" for text in _busy(quote.measured))]


def price_json(quote: Quote) -> dict[str, Any]:
    kinds = [
        {"kind": case, "share": round(share, 4), "pace": pace and {**asdict(pace), "epoch_s": pace.epoch_s}}
        for case, share, pace in zip(quote.measured.cases, quote.measured.shares, quote.measured.paces, strict=True)
    ]
    about: Mapping[str, Any] = {"place": quote.measured.place.name, "kinds": kinds, "forecast": asdict(quote.forecast)}
    start = {"earliest_start": quote.start, "tried": [asdict(found) for found in quote.tried], "notes": quote.notes}
    return {**about, "paid_hours": asdict(quote.paid), "least_s": quote.least_s, "most_s": quote.most_s, **start}


def _kind_lines(measured: Measured) -> list[str]:
    lines = []
    for case, share, pace in zip(measured.cases, measured.shares, measured.paces, strict=True):
        said = f"  {spell_model(case):<40} {share:>5.0%}"
        if pace is None:
            lines.append(f"{said}   not measured, taken as the nearest")
            continue
        lines.append(f"{said}   {pace.parameters / 1e6:>8.2f} M {pace.memory_bytes / 1e9:>5.1f} GB "
                     f"{pace.epoch_s:>5.3g} s {pace.open_s:>7.2g} s")  # fmt: skip
    return lines


def _busy(measured: Measured) -> list[str]:
    slow = slowness(measured)
    return (
        [f"measuring took {slow:.1f} times as long as on an idle machine, and so would the sweep"]
        if slow > _BUSY
        else []
    )
