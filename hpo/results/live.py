"""A running sweep in a few lines: how far, how long still, the best so far, who works, what it cost."""

from __future__ import annotations

from hpo.records import FINAL_STATES
from hpo.results.ledger import ledger_line, read_ledger
from hpo.results.read import Results
from hpo.results.table import say_silence
from hpo.results.wording import count, duration, metric_format, value_text

_FEWEST = 3  # trials that must have ended before the time left is estimated
_BAR = 30


def live_lines(results: Results, now: float, bar: tuple[str, str] = ("#", ".")) -> list[str]:
    """What --watch shows. `bar`: the characters for done and to do."""
    ended = sum(row.state in FINAL_STATES for row in results.rows)
    total = results.num_trials or len(results.rows)
    filled = _BAR * ended // max(total, 1)
    lines = [f"{bar[0] * filled}{bar[1] * (_BAR - filled)} {ended} of {count(total, 'trial')} ended, {results.status}"]
    left = time_left(results, ended, total, now)
    spent = duration(sum(attempt.seconds for attempt in results.attempts))
    lines.append(f"{spent} spent{f', about {duration(left[0])} to {duration(left[1])} left' if left else ''}")
    if results.seems_dead(now):
        lines.append(say_silence(results, now))
    best = results.best
    if best:
        write = metric_format(row.value for row in results.rows)
        params = ", ".join(f"{n}={value_text(best.params[k])}" for k, n in results.columns.items() if k in best.params)
        lines.append(
            f"best {results.metric} {write(best.value)}: trial {best.trial}, epoch {best.best_epoch}, {params}"
        )
    running = [row for row in results.rows if row.state == "running"]
    nodes = sorted({row.node for row in running if row.node})
    if results.status == "running":
        where = f" on {', '.join(nodes)}" if nodes else ""
        lines.append(f"{count(len(running), 'trial')} at work{where}; {count(read_ledger(results).workers, 'worker')}")
        lines += [f"  {row.trial} epoch {row.epochs}/{row.max_epochs or '?'}" for row in running[:16]]
    cost = ledger_line(read_ledger(results))
    return [*lines, cost] if cost else lines


def time_left(results: Results, ended: int, total: int, now: float) -> tuple[float, float] | None:
    """Seconds still needed, from and to, by the pace so far; None while too little is known.

    Trials end in bursts and the later ones are the better ones, that go the whole way: the range is honest, not wide.
    """
    if results.status != "running" or results.seems_dead(now) or ended < _FEWEST or ended >= total:
        return None
    spent = sum(attempt.seconds for attempt in results.attempts)
    spent += max(0.0, results.silence(now))
    pace = spent / ended * (total - ended)
    return 0.7 * pace, 1.6 * pace
