"""The two models: each learns where the good values lie, from few points and in little space."""

from __future__ import annotations

import numpy as np

from hpo.search.evidence import Observation, gather
from hpo.search.gaussian import GaussianProcess, fit_hyperparameters, normal_cdf
from hpo.search.parzen import Parzen
from hpo.space import parse_space

SPACE = parse_space(
    {
        "optim.lr": {"loguniform": [1e-4, 1.0]},
        "optim.optim_type": {"choice": ["adamw", "sgd"]},
        "optim.momentum": {"uniform": [0.5, 0.9], "when": {"optim.optim_type": "sgd"}},
    }
)


def test_the_cumulative_normal_distribution():
    assert np.allclose(normal_cdf(np.array([-1.96, 0.0, 1.96])), [0.0249979, 0.5, 0.9750021], atol=1e-6)


def test_the_process_finds_which_dimension_matters():
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    y = np.sin(6 * x[:, 1])
    found = fit_hyperparameters(x, (y - y.mean()) / y.std(), np.zeros(60))
    assert found.weights[1] > 5 * max(found.weights[0], found.weights[2])


def test_the_process_predicts_and_is_less_sure_far_away():
    rng = np.random.default_rng(1)
    x = rng.random((40, 2)) * 0.5
    process = GaussianProcess(x, x[:, 0], np.zeros(40), np.zeros((0, 2)))
    mean, deviation = process.predict(np.array([[0.1, 0.25], [0.4, 0.25], [1.0, 1.0]]))
    assert mean[1] > mean[0]
    assert deviation[2] > 2 * deviation[0]


def test_a_running_trial_draws_no_second_one_to_its_place():
    x = np.linspace(0, 1, 12)[:, None]
    y = -((x[:, 0] - 0.5) ** 2)
    grid = np.linspace(0, 1, 101)[:, None]
    first = grid[np.argmax(GaussianProcess(x, y, np.zeros(12), np.zeros((0, 1))).improvement(grid))]
    alone = GaussianProcess(x, y, np.zeros(12), np.zeros((0, 1))).improvement(first[None])
    joined = GaussianProcess(x, y, np.zeros(12), first[None]).improvement(first[None])
    assert joined < alone


def test_noise_grows_towards_the_lower_rungs_when_they_mislead():
    rng = np.random.default_rng(2)
    x = rng.random((60, 1))
    levels = np.repeat([0.0, 1.0], 30)
    y = 3 * x[:, 0] + levels * rng.normal(size=60) * 2
    assert fit_hyperparameters(x, (y - y.mean()) / y.std(), levels).growth > 1.5


def test_parzen_densities_stay_near_the_good_and_keep_conditions():
    rng = np.random.default_rng(3)
    seen = []
    for k in range(80):
        lr, kind = 10 ** rng.uniform(-4, 0), ("adamw", "sgd")[k % 2]
        params = {"optim.lr": lr, "optim.optim_type": kind, **({"optim.momentum": 0.6} if kind == "sgd" else {})}
        seen.append(Observation(params, [-abs(np.log10(lr) + 2) - (kind == "adamw")]))
    parzen = Parzen(SPACE, gather(SPACE, seen, maximise=True))
    drawn = [parzen.draw(rng) for _ in range(60)]
    assert all(("optim.momentum" in params) == (params["optim.optim_type"] == "sgd") for params in drawn)
    assert sum(params["optim.optim_type"] == "sgd" for params in drawn) > 40
    assert abs(np.median([np.log10(params["optim.lr"]) for params in drawn]) + 2) < 0.5
