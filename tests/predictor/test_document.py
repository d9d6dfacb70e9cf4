"""AutoMM's arguments as a sweep: both spellings, presets, Ray's objects; everything else refused by name and reason."""

from __future__ import annotations

import copy
import pickle
import random

import pytest

from hpo import Bool, Categorical, Int, Real
from hpo.automm import KEYS
from hpo.config import parse_search, parse_yaml
from hpo.errors import UsageError
from hpo.predictor.document import read_request, to_yaml
from hpo.predictor.presets import NAMES
from hpo.search.bayes import Observation, suggest

SEARCH = {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 2, "num_to_keep": 3}
SPACE = {"optim.lr": Real(1e-5, 1e-2, log=True)}


def space_and_tune(*arguments):
    return parse_search(read_request(*arguments).document())


def test_the_tutorials_words():
    tune = pytest.importorskip("ray.tune")
    hyperparameters = {
        "optimization.learning_rate": tune.uniform(0.00005, 0.001),
        "model.timm_image.checkpoint_name": tune.choice(["ghostnet_100", "mobilenetv3_large_100"]),
        "optimization.optim_type": tune.choice(["adamw", "sgd"]),
        "optimization.max_epochs": tune.choice(["10", "20"]),
    }
    space, search = space_and_tune(hyperparameters, SEARCH)
    domains = {d.key: d.domain for d in space.dimensions}
    assert (domains["optim.lr"].low, domains["optim.lr"].high) == (0.00005, 0.001)
    assert domains["optim.max_epochs"].options == (10, 20)  # text counts as a number
    assert domains["model.timm_image.checkpoint_name"].options == ("ghostnet_100", "mobilenetv3_large_100")
    assert (search.searcher, search.scheduler, search.num_trials, search.num_to_keep) == ("bayes", "ASHA", 2, 3)


def test_every_spelling_nested_or_flat_is_the_same():
    forms = [
        {"optimization.learning_rate": 0.01, "optimization.max_epochs": "3", "env.batch_size": 8},
        {"optim.lr": 0.01, "optim.max_epochs": 3, "env.batch_size": 8},
        {"optimization": {"learning_rate": 0.01, "max_epochs": 3}, "env": {"batch_size": "8"}},
        "optim.lr=0.01 optim.max_epochs=3 env.batch_size=8",
        ["optimization.learning_rate=1e-2", "optim.max_epochs=3", "env.batch_size=8"],
    ]
    constants = [space_and_tune(form, None)[0].constants for form in forms]
    assert all(found == constants[0] for found in constants)
    nested = {"model": {"timm_image": {"checkpoint_name": "test_vit", "drop_rate": 0.1}}}
    assert space_and_tune(nested, None)[0].constants["model.timm_image.drop_rate"] == 0.1
    with pytest.raises(UsageError, match="optim.lr is given twice"):
        read_request({"optim.lr": 0.1, "optimization": {"learning_rate": 0.2}}, None)


def test_the_persons_own_arguments_stay_as_they_are():
    hyperparameters = {**SPACE, "optim.max_epochs": Int(1, 3)}
    search = {**SEARCH, "searcher_init_args": {"points_to_evaluate": [{"optim.lr": 1e-3}]}}
    before = copy.copy(hyperparameters), copy.deepcopy(search)
    request = read_request(hyperparameters, search)
    assert (hyperparameters, search) == before
    assert request.points == [{"optim.lr": 1e-3}]


def test_lists_survive_the_bayesian_search():
    options = [["resize"], ["center_crop", "random_horizontal_flip"], ["random_resized_crop"]]
    key = "model.timm_image.train_transforms"
    space, _ = space_and_tune({key: Categorical(*options), "optim.max_epochs": 3, **SPACE}, SEARCH)
    rng, seen = random.Random(0), []
    for number in range(14):
        found = suggest(space, seen, number, seed=0, maximise=True, startup=3)
        assert found.params[key] in options
        assert type(found.params[key]) is list
        seen.append(Observation(found.params, [rng.random()]))
    assert found.origin == "model"


def test_the_same_seed_suggests_the_same():
    space, _ = space_and_tune({**SPACE, "optim.weight_decay": Real(1e-5, 1e-1, log=True)}, SEARCH)

    def trials(seed):
        seen = []
        for number in range(8):
            found = suggest(space, seen, number, seed=seed, maximise=True, startup=3)
            seen.append(Observation(found.params, [found.params["optim.lr"]]))
        return [o.params for o in seen]

    assert trials(1) == trials(1)
    assert trials(1) != trials(2)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_sweep(name):
    request = read_request(None, None, name)
    space, search = parse_search(request.document())
    assert request.searched == name.endswith("hpo")
    assert (search.num_trials == 512) == request.searched
    if request.searched:
        domains = {d.key: d.domain for d in space.dimensions}
        assert domains["optim.max_epochs"].options == tuple(range(5, 31))
        assert domains["env.batch_size"].options == (16, 32, 64, 128, 256)


def test_own_values_go_before_the_presets():
    request = read_request({"optim.lr": 0.5, "optimization.max_epochs": 2}, {"num_trials": 4}, "medium_quality_hpo")
    space, search = parse_search(request.document())
    assert (space.constants["optim.lr"], space.constants["optim.max_epochs"], search.num_trials) == (0.5, 2, 4)
    base = {"optimization.learning_rate": 0.1, "env.batch_size": 8}
    found = read_request({"optim.lr": 0.5}, None, "medium_quality", None, base).hyperparameters
    assert (found["optim.lr"], found["env.batch_size"]) == (0.5, 8)
    assert found["model.timm_image.checkpoint_name"] == "mobilenetv3_large_100"
    with pytest.raises(UsageError, match="presets must be one of .* Did you mean 'medium_quality'"):
        read_request(None, None, "medium_qualty")


def test_tune_kwargs_as_text_and_with_time():
    assert read_request(SPACE, "random").tune == {"searcher": "random", "scheduler": "FIFO"}
    assert read_request(SPACE, {}, None, 60.0).tune["num_trials"] == 1000
    assert read_request(SPACE, {"num_trials": 3}, None, 60.0).tune["num_trials"] == 3
    with pytest.raises(UsageError, match="must be a dict or one of auto, random, bayes, got 'baies'. Did you mean"):
        read_request(SPACE, "baies")


def test_rays_own_searchers_and_schedulers_travel_as_they_are():
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
    from ray.tune.search.optuna import OptunaSearch

    request = read_request(SPACE, {"searcher": OptunaSearch(), "scheduler": AsyncHyperBandScheduler(grace_period=2)})
    assert request.tune == {
        "searcher": {"class": "ray.tune.search.optuna.optuna_search.OptunaSearch", "pickle": "searcher.pickle"},
        "scheduler": {
            "class": "ray.tune.schedulers.async_hyperband.AsyncHyperBandScheduler",
            "pickle": "scheduler.pickle",
        },
    }
    assert type(pickle.loads(request.attachments["scheduler.pickle"])) is AsyncHyperBandScheduler
    assert space_and_tune(SPACE, {"scheduler": FIFOScheduler()})[1].scheduler == "FIFO"


def test_what_of_rays_cannot_work_is_refused_by_name_and_reason():
    from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.search.repeater import Repeater

    class Unpicklable(FIFOScheduler):
        def __reduce__(self):
            raise TypeError("it holds a lock")

    for search, message in (
        ({"scheduler": PopulationBasedTraining(hyperparam_mutations={"a": [1]})}, "PopulationBasedTraining cannot be"),
        ({"searcher": Repeater(OptunaSearch())}, "searcher Repeater cannot be used: all trials share the sweep's seed"),
        ({"searcher": FIFOScheduler}, r"searcher is the class FIFOScheduler; give an instance, FIFOScheduler\(...\)"),
        ({"searcher": FIFOScheduler()}, "FIFOScheduler is no searcher of Ray Tune; it is a scheduler"),
        ({"scheduler": OptunaSearch()}, "OptunaSearch is no scheduler of Ray Tune; it is a searcher"),
        ({"searcher": object()}, "object is no searcher of Ray Tune; use"),
        ({"scheduler": Unpicklable()}, "the Unpicklable cannot be pickled .TypeError: it holds a lock"),
        ({"searcher": OptunaSearch(), "searcher_init_args": {"seed": 1}}, "give them to OptunaSearch itself"),
    ):
        with pytest.raises(UsageError, match=message):
            read_request(SPACE, search)


@pytest.mark.parametrize(
    ("hyperparameters", "search", "message"),
    [
        ({"optimization.learning_rat": 0.1}, None, "unknown key 'optimization.learning_rat'. Did you mean"),
        ({"model.timm_image.checkpoint_name": "ghostnet_10"}, None, "timm has no model 'ghostnet_10'. Did you mean"),
        ({"optim.optim_type": "adamv"}, None, "timm has no optimiser 'adamv'"),
        ({"env.batch_size": "many"}, None, "env.batch_size must be a number, got 'many'"),
        (SPACE, None, "optim.lr is a search space, but hyperparameter_tune_kwargs is not given"),
        ({"optim.lr": 0.1}, SEARCH, "nothing is searched"),
        (SPACE, {**SEARCH, "num_to_keep": 0}, "num_to_keep must be a whole number of at least 1, got 0"),
        (SPACE, {**SEARCH, "searcher": "baies"}, "searcher must be one of bayes, random, got 'baies'. Did"),
        (SPACE, {**SEARCH, "searcher": ["bayes"]}, r"searcher must be one of bayes, random, got \['bayes'\]"),
        (SPACE, {**SEARCH, "num_trails": 3}, "unknown key hyperparameter_tune_kwargs.num_trails. Did you mean"),
        (SPACE, {**SEARCH, "scheduler_init_args": {"max_t": 9}}, "unknown key scheduler_init_args.max_t"),
        (SPACE, 3, "hyperparameter_tune_kwargs must be a dict, got 3"),
        ([3], None, r"hyperparameters must be a dict of keys and values, got \[3\]"),
        ({"optim.top_k_average_method": "soup"}, None, "must be one of greedy_soup, uniform_soup, best, got 'soup'"),
        ({"optim.top_k": Int(1, 3)}, SEARCH, "optim.top_k cannot be searched"),
        ({"env.num_gpus": 1.5}, None, "env.num_gpus must be -1 .* got 1.5"),
        ({"model.names": ["timm_image", "hf_text"]}, None, r"model.names must be one of .*, got 'hf_text'"),
        ({"optimization.lr_choice": "two_stages"}, None, "optimization.lr_choice='two_stages' is not supported"),
        ({"optimization.efficient_finetune": "ia3"}, None, "AutoMM's optim.peft=ia3 is not supported: it scales"),
        ({"optim.lora.r": 4}, None, "optim.lora.r does nothing while optim.peft is None"),
        ({"optim.lora.module_filter": ["x"]}, None, "module_filter=.'x'. is not supported .*: optim.lora.filter names"),
        ({"data.mixup.turn_on": "maybe"}, None, "data.mixup.turn_on must be true or false, got 'maybe'"),
        ({"data": {"mixup": {"label_smoothing": 0.1}}}, None, "data.mixup.label_smoothing=0.1 is not supported"),
        ({"data.mixup.mode": Categorical("batch", "elem")}, SEARCH, "data.mixup.mode cannot be searched"),
        ({"model.timm_image.train_transforms": ["trivial_augmen"]}, None, "Did you mean 'trivial_augment'"),
    ],
)  # fmt: skip
def test_refused_by_name_before_anything_starts(hyperparameters, search, message):
    with pytest.raises(UsageError, match=message) as refusal:
        read_request(hyperparameters, search)
    assert "\n" not in str(refusal.value)


def test_what_changes_nothing_is_taken():
    """The values of AutoMM's that say what happens here anyway; each key of the list is refused with any other."""
    taken = {key: accepted[0] for key, (accepted, _) in KEYS.items() if accepted}
    assert read_request({**taken, "optim.lr": 0.1}, None).hyperparameters == {"optim.lr": 0.1}
    for key in KEYS:
        with pytest.raises(UsageError, match=f"AutoMM's {key}=.* is not supported.*: "):
            read_request({key: "something else"}, None)


def test_booleans_and_sections_reach_the_space():
    hyperparameters = {"data": {"mixup": {"turn_on": Bool(), "mixup_alpha": 0.4}}, "optim.efficient_finetune": None}
    space, _ = space_and_tune(hyperparameters, SEARCH)
    [dimension] = space.dimensions
    assert dimension.domain.options == (False, True)
    assert all(type(option) is bool for option in dimension.domain.options)
    assert space.constants == {"data.mixup.mixup_alpha": 0.4, "optim.peft": None}


def test_choices_of_sections_and_of_ranges():
    tune = pytest.importorskip("ray.tune")
    rates = {"sgd": tune.loguniform(1e-2, 1), "adamw": tune.loguniform(1e-5, 1e-3)}
    options = [{"optim_type": name, "learning_rate": rate} for name, rate in rates.items()]
    own = {"optimization": tune.choice(options), "optim.weight_decay": tune.choice([tune.uniform(0.1, 0.2), 0.0])}
    space, _ = space_and_tune(own, SEARCH, "medium_quality_hpo")  # and what the preset says of both keys is gone
    rng = random.Random(0)
    for params in (space.sample(rng) for _ in range(50)):
        assert (params["optim.lr"] >= 1e-2) == (params["optim.optim_type"] == "sgd")
        assert params["optim.weight_decay"] == 0 or 0.1 <= params["optim.weight_decay"] <= 0.2
    with pytest.raises(UsageError, match="optim is a section; give a choice of dicts of its keys"):
        read_request({"optim": tune.choice(["adamw", "sgd"])}, SEARCH)


def test_gpus_and_kept_epochs_in_automms_words():
    request = read_request({"env.num_gpus": 0, "optim.top_k": 5, "optim.top_k_average_method": "best"}, None)
    assert request.hyperparameters == {"env.accelerator": "cpu"}
    assert request.tune == {"num_trials": 1, "resources_per_trial": {"num_gpus": 0}, "num_to_keep": 5}
    assert request.soup == "best"
    assert not request.searched
    half = {**SEARCH, "resources_per_trial": {"num_gpus": 0.5, "num_cpus": 2}}
    _, search = space_and_tune(SPACE, half)
    assert (search.gpus_per_trial, search.cpus_per_trial) == (0.5, 2)


def test_the_same_as_a_sweep_file():
    request = read_request({**SPACE, "model.timm_image.pretrained": False, "env.batch_size": 8}, SEARCH)
    document = request.document(data="x", name="n")
    assert parse_yaml(to_yaml(document), "sweep.yaml") == document
