"""Why a trial is in its state, in words that follow from the journal."""

from __future__ import annotations

from hpo.records import FINAL_STATES, Event, Trial
from hpo.results.wording import one_line, value_text

STATES = (*FINAL_STATES, "running", "interrupted", "promoted", "paused", "suggested")
_FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}


def explain(trial: Trial, max_epochs: int | None, reduction: int | None = None) -> tuple[str, str]:
    """Why `trial` is in its state: as a sentence, and in a few words."""
    done = f"epoch {trial.epochs}" + (f" of {max_epochs}" if max_epochs else "")
    verdict = next((decision for decision in reversed(trial.decisions) if decision["action"] == "stop"), None)
    if trial.state == "stopped" and verdict:
        return _explain_stop(verdict, max_epochs, reduction)
    if trial.state == "completed":
        if trial.reason in ("", "max_epochs"):
            return f"completed all {trial.epochs} epochs", "all epochs"
        return f"completed at {done}: {one_line(trial.reason)}", one_line(trial.reason)
    if trial.state in FINAL_STATES:
        why = one_line(trial.reason) or "no reason given"
        again = f" (failed {len(trial.failures)} times)" if len(trial.failures) > 1 else ""
        return f"{trial.state} at {done}{again}: {why}", f"{why}{again}"
    if trial.state == "interrupted":
        last = f"failed ({one_line(trial.failures[-1]['kind'])})" if trial.failures else "cut off"
        return f"{last} after {done}, waits to go on", f"{last}, waits to go on"
    if trial.state in ("paused", "promoted"):
        return _explain_pause(trial, done)
    if trial.state == "running":
        return f"running on {trial.node or 'some node'}, {done} done", "running"
    return "suggested, not started yet", "not started"


def _explain_pause(trial: Trial, done: str) -> tuple[str, str]:
    verdict = trial.decisions[-1]
    place = f"rank {verdict['rank']} of {verdict['of']} at rung {verdict['rung']}"
    if trial.state == "promoted":
        return f"promoted after {done}, {place}, waits for a worker", "promoted, waits to go on"
    return f"paused after {done}, {place} then; goes on if enough worse ones follow", "paused"


def _explain_stop(verdict: Event, max_epochs: int | None, reduction: int | None) -> tuple[str, str]:
    place = f"epoch {verdict['epoch']}" + (f" of {max_epochs}" if max_epochs else "")
    if verdict.get("value") is None:
        return f"stopped at {place}: no finite value", "no finite value"
    brief = f"rank {verdict['rank']}/{verdict['of']}"
    why = f"{value_text(verdict['value'])} was rank {verdict['rank']} of {verdict['of']}"
    if verdict.get("cutoff") is not None:
        cutoff = f", cutoff {value_text(verdict['cutoff'])}"
        share = f"best {_FRACTIONS.get(reduction or 0, f'1/{reduction}')}"
        share = "best so far" if reduction and verdict["of"] < reduction else share
        why, brief = why + cutoff + (f" for the {share}" if reduction else ""), brief + cutoff
    return f"stopped at {place}: {why}", brief
