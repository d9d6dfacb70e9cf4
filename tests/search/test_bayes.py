"""The Bayesian searcher: pure, in the space, and better than chance where there is something to learn."""

from __future__ import annotations

import math
import statistics

import pytest

from hpo.search.bayes import Observation, startup_trials, suggest
from hpo.space import parse_space

SPACE = parse_space(
    {
        "optim.lr": {"loguniform": [1e-5, 1.0]},
        "optim.optim_type": {"choice": ["adamw", "sgd"]},
        "optim.momentum": {"uniform": [0.5, 0.99], "when": {"optim.optim_type": "sgd"}},
        "model.timm_image.train_transforms": {"choice": [["resize"], ["random_crop"]]},
    }
)


def value(params):
    return -((math.log10(params["optim.lr"]) + 2) ** 2) - (params["optim.optim_type"] == "sgd")


def run(number, seed=0, model=True):
    seen = []
    origins = []
    for k in range(number):
        suggestion = suggest(SPACE, seen, k, seed=seed, maximise=True, startup=5, model=model)
        origins.append(suggestion.origin)
        seen.append(Observation(suggestion.params, [value(suggestion.params)]))
    return seen, origins


def test_the_first_is_the_default_then_random_then_the_model():
    seen, origins = run(12)
    assert origins[0] == "default"
    assert seen[0].params == SPACE.default()
    assert set(origins[1:5]) == {"random"}
    assert origins[5:9] == ["model"] * 4
    assert origins[9] == "random"  # the tenth


def test_a_suggestion_is_a_function_of_what_was_seen():
    seen, _ = run(8)
    first = suggest(SPACE, seen, 8, seed=0, maximise=True, startup=5)
    assert suggest(SPACE, list(seen), 8, seed=0, maximise=True, startup=5) == first
    assert suggest(SPACE, seen, 8, seed=1, maximise=True, startup=5) != first


def test_the_model_finds_better_values_than_random_search():
    best = {model: [max(o.values[0] for o in run(25, seed, model)[0]) for seed in range(8)] for model in (True, False)}
    assert statistics.median(best[True]) > statistics.median(best[False])


def test_only_one_rung_counts():
    """Values of the first rung lie about the second: with enough of the second, the model follows that."""
    import random

    rng = random.Random(1)
    seen = []
    for _ in range(40):
        params = SPACE.sample(rng)
        seen.append(Observation(params, [-value(params), value(params)]))
    lrs = [suggest(SPACE, seen, 41 + 10 * k, seed=k, maximise=True, startup=8).params["optim.lr"] for k in range(8)]
    assert abs(statistics.median(map(math.log10, lrs)) + 2) < 1


def test_diverged_failed_and_running_trials_do_no_harm():
    seen, _ = run(8)
    seen += [
        Observation(SPACE.default(), [None]),
        Observation(SPACE.default(), [], failed=True),
        Observation(SPACE.default(), []),
    ]
    suggestion = suggest(SPACE, seen, 11, seed=0, maximise=True, startup=5)
    assert suggestion.origin == "model"


def test_a_finite_space_is_not_repeated_before_it_is_used_up():
    space = parse_space(
        {"optim.optim_type": {"choice": ["adamw", "sgd", "lamb"]}, "env.batch_size": {"randint": [8, 12]}}
    )
    seen = []
    for k in range(12):
        suggestion = suggest(space, seen, k, seed=3, maximise=True, startup=4)
        seen.append(Observation(suggestion.params, [float(k % 5)]))
    assert len({tuple(o.params.items()) for o in seen}) == 12
    assert suggest(space, seen, 12, seed=3, maximise=True, startup=4).params in [o.params for o in seen]


def test_user_points_come_after_the_default():
    point = SPACE.complete({"optim.lr": 0.5})
    assert suggest(SPACE, [], 1, seed=0, maximise=True, startup=5, points=[point]).params == point


@pytest.mark.parametrize(("trials", "expected"), [(8, 5), (16, 5), (24, 8), (100, 8)])
def test_startup_scales_with_the_sweep(trials, expected):
    assert startup_trials(SPACE, trials) == expected


@pytest.mark.parametrize("kind", [True, False])
def test_it_keeps_away_from_what_cannot_be_trained(kind):
    """A third of the space is out of memory, and looks best otherwise. A failure of another cause says nothing."""
    space = parse_space({"optim.optim_type": {"choice": ["adamw", "sgd", "lamb"]},
                         "optim.lr": {"loguniform": [1e-5, 1.0]}})  # fmt: skip
    seen, chosen = [], []
    for number in range(40):
        found = suggest(space, seen, number, seed=0, maximise=True, startup=6).params
        chosen.append(found["optim.optim_type"])
        score = -abs(math.log10(found["optim.lr"]) + 2)
        failed = found["optim.optim_type"] == "lamb"
        seen.append(Observation(found, [] if failed else [score], failed=failed, barred=failed and kind))
    late = chosen[15:].count("lamb")
    assert late <= 4 if kind else late >= 5
