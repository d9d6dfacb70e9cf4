"""A real sweep with a limit and two objectives, to its end."""

from __future__ import annotations

import json

import pytest
from small_sweeps import SWEEP, make_shards

from hpo.records import SweepState, read_events

pytestmark = pytest.mark.ray
LIMIT = 350_000  # parameters: below it timm's test_vit and test_efficientnet, beyond it test_resnet
AMONG = {"test_vit", "test_efficientnet"}
MODEL = "model.timm_image.checkpoint_name"
MORE = f"""\
constraints: {{parameters: {LIMIT}}}
objectives: [parameters]
points_to_evaluate: [{{{MODEL}: test_resnet}}, {{{MODEL}: test_efficientnet}}]
"""


@pytest.fixture
def sweep(tmp_path):
    """Its first trials are a test_vit, a test_resnet and a test_efficientnet."""
    make_shards(tmp_path)
    text = SWEEP.format(data="data", epochs=2, trials=8)
    text = text.replace("[test_vit, test_resnet]", "[test_vit, test_resnet, test_efficientnet]")
    path = tmp_path / "small.yaml"
    path.write_text(text + MORE)
    return path


def dominated(one, others):
    """Whether any of `others` (accuracy, parameters) is at least as good in both, and better in one."""
    return any(a >= one[0] and p <= one[1] and (a, p) != one for a, p in others)


def test_a_limit_bars_a_model_and_the_front_is_what_nothing_dominates(tmp_path, sweep, submit, results):
    run = tmp_path / "run"
    done = submit(sweep, "--cluster", "local", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    state = SweepState(read_events(run / "journal.jsonl"))
    assert state.ended
    assert len(state.trials) == 8
    barred = [trial for trial in state.trials.values() if trial.params[MODEL] not in AMONG]
    assert barred
    for trial in barred:  # not one epoch was spent on it
        assert (trial.state, trial.epochs, trial.failures[-1]["kind"]) == ("failed", 0, "infeasible")
        assert f"over the {LIMIT:,} of constraints" in trial.failures[-1]["cause"]
    trained = [trial for trial in state.trials.values() if trial.params[MODEL] in AMONG]
    assert {trial.params[MODEL] for trial in trained} == AMONG
    assert all(trial.state in ("completed", "stopped") for trial in trained)

    best = {t.id: max(m["val_accuracy"] for m in t.first.values()) for t in trained}
    size = {trial.id: trial.first[1]["parameters"] for trial in trained}
    assert len(set(size.values())) == 2
    assert max(size.values()) <= LIMIT
    found = results(run)
    assert found["objectives"] == ["parameters"]
    front, points = set(found["front"]), {name: (best[name], size[name]) for name in best}
    assert front == {name for name, point in points.items() if not dominated(point, points.values())}
    assert found["best"] == state.incumbent().id
    assert best[found["best"]] == max(best[name] for name in front)  # a smaller model may be as good
    told = json.loads((run / "best" / "config.json").read_text())
    assert told["trial"] == found["best"]
