"""The results for programs."""

from __future__ import annotations

from typing import Any

from hpo.results.front import front
from hpo.results.read import Results, Row

JSON_VERSION = 1


def to_json(results: Results, rows: list[Row]) -> dict[str, Any]:
    """The results for programs. Keys are added under the same `version`; a change of meaning raises it.

    version 1:
        version, name, metric, mode ("max" or "min"), num_trials (asked for, or null)
        status      "waiting" (no attempt yet), "running", "unfinished" (no attempt at work) or "ended"
        states      {state: number of trials}; states: completed stopped diverged failed running
                    interrupted promoted paused suggested
        best, default   ids of the best trial and of trial 0, or null
        objectives      measures that are to be small beside the metric; front: ids of the trials on the Pareto front
        constants   {key: value} that all trials share
        trials      best first, then those without a value: rank (null without), trial, number, state, reason, brief,
                    value, best_epoch, epochs, max_epochs, params, origin, seconds, node,
                    curve [[epoch, value or null]], decisions, judgements, failures (the journal's events),
                    metrics (all of its best epoch, else of its last), note (of the searcher), suggested_at (its
                    place in the journal), rung (that the model which suggested it looked at, or null), alone (it
                    looked at none of the earlier sweeps that warm_start gave)
        attempts    id, job, host, nodes, started_at (Unix seconds), clock (seconds of earlier ones), seconds,
                    ended (false: at work or killed), reason
        history     each new best: seconds (of the attempts' time), trial, epoch, value
        rungs       number, epochs [...], arrived, stopped, paused (waiting there now)
        failures    kind, failures, trials [...], cause (of the last)
        last_event_at   Unix seconds, or null
    """
    return {
        "version": JSON_VERSION,
        "name": results.name,
        "metric": results.metric,
        "mode": results.mode,
        "num_trials": results.num_trials,
        "status": results.status,
        "states": results.states,
        "objectives": list(results.objectives),
        "front": [row.trial for row in front(results)],
        "best": results.best.trial if results.best else None,
        "default": results.default.trial if results.default else None,
        "constants": results.constants,
        "trials": [vars(row) for row in rows],
        "attempts": [vars(attempt) for attempt in results.attempts],
        "history": [vars(step) for step in results.history],
        "rungs": [vars(rung) for rung in results.rungs],
        "failures": [vars(group) for group in results.failures],
        "last_event_at": results.last_event_at,
    }
