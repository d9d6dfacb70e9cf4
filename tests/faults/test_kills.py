"""Sweeps whose processes are killed go the way of an unbroken one: a selection of what campaign.py does at length."""

from __future__ import annotations

import json
import random
import time

import pytest
from campaign import KINDS, SWEEP, Run, attack, compare
from small_sweeps import make_shards

pytestmark = pytest.mark.ray
WAIT_S = 600  # for the next epoch
SAME_JOB = ["driver", "gcs", "raylet"]  # after these the supervisor makes another attempt at once


class OneOfEach(Run):
    """Kills as soon as the journal has another start of a trial and an epoch after it, so that nothing depends on how
    fast the machine is. (Epochs alone would not do: those of an attempt that is about to end still come.)"""

    def _wait(self, process):
        known, end = len(self.events), time.monotonic() + WAIT_S
        while not self._trains_again(known):
            assert time.monotonic() < end, f"no epoch in {WAIT_S} s"
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def _trains_again(self, known):
        kinds = [event["type"] for event in self.events[known:]]
        return "started" in kinds and "reported" in kinds[kinds.index("started") :]


def run(folder, kinds):
    sweep = folder.with_suffix(".yaml")
    text = SWEEP.format(data=folder.parent / "data", trials=2, epochs=12)
    text = text.replace("deterministic: 2", "deterministic: 1")  # each start imports PyTorch once, not twice
    sweep.write_text(text.replace("scheduler_init_args: {grace_period: 1}", "scheduler: FIFO"))
    return OneOfEach(folder, sweep, kinds, random.Random(0), most=len(kinds))


def test_a_kill_of_each_kind(tmp_path):
    """One sweep, killed in every way there is, and one that is left alone: the same to the bit."""
    make_shards(tmp_path, per_class=40)
    kinds = ["trial", *SAME_JOB, "supervisor", "all"]
    assert set(kinds) == set(KINDS)
    whole, broken = run(tmp_path / "whole", []), run(tmp_path / "broken", kinds)
    assert whole.play() == []
    assert broken.play() == []
    assert [kill["kind"] for kill in broken.kills] == kinds
    assert compare(whole.events, broken.events) == []
    attempts = [event["attempt"] for event in broken.events if event["type"] == "attempt_started"]
    first, last = attempts[0], attempts[-1]
    assert attempts[: len(SAME_JOB) + 1] == [first, *(f"{first}-{i + 1}" for i in range(len(SAME_JOB)))]
    assert broken.resumed == 2
    said = {path.parent.name: json.loads(path.read_text()) for path in broken.folder.glob("attempts/*/exit.json")}
    ends = {name: (one["code"], one["again"]) for name, one in said.items()}
    assert ends == {**{name: (4, True) for name in attempts[: len(SAME_JOB)]}, last: (0, False)}


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_twice(tmp_path_factory, kind):
    """At random moments, with rung decisions."""
    out = tmp_path_factory.getbasetemp() / "kills"
    out.mkdir(exist_ok=True)
    killed, wrong = attack(out, [kind, kind], 2, 2, trials=4)
    assert wrong == []
    assert [kill["kind"] for kill in killed.kills] == [kind, kind]
    assert killed.resumed >= 2 * (kind in ("all", "supervisor"))
