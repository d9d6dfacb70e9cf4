"""One sweep's price: measured, simulated, and against SLURM's clock."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hpo.cluster.request import SlurmRequest
from hpo.cluster.share import Share
from hpo.cluster.words import format_minutes, parse_minutes
from hpo.config import SweepConfig
from hpo.errors import UsageError
from hpo.price.forecast import Forecast, Range, bounds, forecast, hosts_by
from hpo.price.measured import Measured, Place
from hpo.price.packing import one_each
from hpo.price.start import earliest_start
from hpo.price.words import finish_line
from hpo.results.wording import moment


@dataclass
class Quote:
    """`start`: Unix seconds of the earliest start by SLURM, None where it is not known; `tried`: other numbers of
    hosts; `notes`: sentences on walltime, start and --by; `least_s` and `most_s`: see bounds; `cpus`, `gpus`: of a
    host."""

    measured: Measured
    forecast: Forecast
    least_s: float
    most_s: float
    cpus: int
    gpus: int
    start: float | None = None
    tried: list[Forecast] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def paid(self) -> Range:
        """GPU-hours, without GPUs CPU-hours, of all hosts from start to end, idle or not."""
        return self.forecast.wall_s.times(self.forecast.nodes * (self.gpus or self.cpus) / 3600)


def find_place(config: SweepConfig, request: SlurmRequest | None, cpus: int, gpus: int) -> Place:
    """Where the trials will run: in a host of `request`, or None, on this machine with so many CPUs and GPUs.

    Raises:
        ClusterError: a trial asks for more than a host has. UsageError: for several hosts.
    """
    host = {"cpus": cpus, "gpus": gpus}
    share = Share(one_each(config))
    per_trial, _ = share.divide(host)
    if share.nodes > 1:
        raise UsageError(
            f"the price of trials over {share.nodes} nodes is not known: updates are measured on one; try one trial."
        )
    return Place(request, per_trial, max(1, share.places(host)))


def quote_sweep(
    config: SweepConfig,
    place: Place,
    host: tuple[int, int],
    *,
    probe: Path | None,
    by: float | None,
    most: int,
    say: Callable[[str], None],
) -> Quote:
    """The price of `config` at `place`.

    Args:
        host: CPUs and GPUs of one.
        probe: a directory, seen by the hosts, for a SLURM job that measures; None: only what is known, or here.
        by: Unix seconds at which the sweep is to be done; the number of hosts that does it is looked for.
        most: hosts that may be asked for.
    Raises:
        UsageError: nothing is known of that place and no probe was asked for. TrialError, ClusterError: see measure.
    """
    measured = Measured(config, place)
    if config.bundled and not config.data.exists():
        raise UsageError(f"the bundled photographs are not unpacked yet in {config.data}; run the sweep here once, or "
                         "make the data with prepare.py.")  # fmt: skip
    if place.request is None or probe is not None:
        measured.measure(say, probe)
    if not any(measured.paces):
        raise UsageError(f"nothing was measured yet at {place.name}: add --probe, a short job on one GPU of it.")
    nodes = (place.request.nodes if place.request else None) or 1
    quote = Quote(measured, forecast(config, measured, nodes), *bounds(config, measured), *host)
    if place.request is not None:
        _ask_slurm(quote, place.request)
    if by is not None:
        _look_for_hosts(quote, config, by, most)
    return quote


def _ask_slurm(quote: Quote, request: SlurmRequest) -> None:
    quote.start, reason = earliest_start(request)
    if quote.start is None:
        quote.notes.append(f"start      not known: {reason}")
    else:
        quote.notes.append(f"start      {moment(quote.start)} at the earliest, by sbatch --test-only")
    walltime = parse_minutes(request.time) * 60 if request.time else None
    if walltime and quote.forecast.wall_s.middle > walltime:
        attempts = -(-quote.forecast.wall_s.high // walltime)
        needed = format_minutes(int(-(-quote.forecast.wall_s.high * 1.1 // 60)))
        quote.notes.append(f"--time     {request.time} is less than the sweep takes: --resume goes on, {attempts:.0f} "
                           f"attempts in all; or ask for --time {needed}")  # fmt: skip


def _look_for_hosts(quote: Quote, config: SweepConfig, by: float, most: int) -> None:
    start = quote.start or time.time()
    found, quote.tried = hosts_by(config, quote.measured, by - start, most)
    place = quote.measured.place
    if found is not None and place.request is not None and found.nodes != quote.forecast.nodes:
        begins, _ = earliest_start(dataclasses.replace(place.request, nodes=found.nodes))
        if begins and begins > start + 60:  # more hosts may have to wait longer
            found, quote.tried = hosts_by(config, quote.measured, by - begins, most)
    quote.notes.append(finish_line(found, by, most, quote.tried))


def parse_by(text: str, now: float) -> float:
    """Unix seconds of '2026-11-25T08:00', or of so long from `now` in SLURM's forms: 6:00:00, 2-0.

    Raises:
        UsageError: it is neither, or lies in the past.
    """
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?", text)
    if match:
        try:
            when = time.mktime(time.strptime(f"{match.group(1)} {match.group(2)}", "%Y-%m-%d %H:%M"))
        except ValueError:
            raise UsageError(f"--by {text!r} is no date; give 2026-11-25T08:00, or 6:00:00 for six hours.") from None
        if when <= now:
            raise UsageError(f"--by {text} lies in the past; give a time to come.")
        return when
    try:
        return now + parse_minutes(text) * 60
    except UsageError:
        raise UsageError(f"--by {text!r} is no time; give 2026-11-25T08:00, or 6:00:00 for six hours.") from None
