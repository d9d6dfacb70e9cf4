"""The Pareto front of a sweep with several objectives: trials that no other one beats in everything."""

from __future__ import annotations

from hpo.results.read import Results, Row
from hpo.results.wording import metric_format, value_text


def front(results: Results) -> list[Row]:
    """The rows on the front, best metric first; [] where the metric is the only objective."""
    if not results.objectives:
        return []
    points = {row.trial: point for row in results.rows if (point := _point(results, row))}
    ahead = {name for name, point in points.items() if not any(_beats(o, point) for o in points.values())}
    return [row for row in results.rows if row.trial in ahead]


def say_front(results: Results) -> str:
    """The front as a sentence, '' where there is none."""
    rows = front(results)
    if not rows:
        return ""
    write = metric_format(row.value for row in results.rows)
    told = [
        f"{row.trial} ({', '.join([write(row.value), *(cost_text(row, name) for name in results.objectives)])})"
        for row in rows
    ]
    return f"Pareto front of {', '.join([results.metric, *results.objectives])}: {'; '.join(told)}."


def cost_text(row: Row, name: str) -> str:
    """How the objective `name` of a trial is written."""
    value = row.metrics.get(name)
    return value_text(round(value) if value is not None and value >= 1000 else value)


def _point(results: Results, row: Row) -> tuple[float, ...] | None:
    """The objectives, less is better; None where one is not known."""
    costs = [row.metrics.get(name) for name in results.objectives]
    if row.value is None or any(cost is None for cost in costs):
        return None
    return (-row.value if results.maximise else row.value), *(float(cost) for cost in costs if cost is not None)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
