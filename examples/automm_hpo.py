"""AutoGluon's tutorial 'Hyperparameter Optimization in AutoMM', with the import changed and nothing else.

    python examples/automm_hpo.py photos           # photos/CLASS/*.jpg, on a GPU in minutes
    python examples/automm_hpo.py --quick          # the bundled photographs at 32 pixels from scratch, for 2 CPU cores

timm's weights are downloaded the first time; `--quick` needs no network.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd  # noqa: E402
from ray import tune  # noqa: E402

from hpo import MultiModalPredictor  # noqa: E402
from hpo.errors import SlurmtuneError  # noqa: E402

ARCHIVE = Path(__file__).resolve().parents[1] / "launch" / "demo" / "clothing.zip"
QUICK = {"model.timm_image.image_size": 32, "model.timm_image.pretrained": False, "env.batch_size": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", type=Path, help="folder with one folder a class")
    parser.add_argument("--quick", action="store_true", help="small images from scratch instead of timm's weights")
    arguments = parser.parse_args()
    photos = arguments.photos or unpack(Path("photos"))
    if not photos.is_dir():
        parser.error(f"{photos} is no folder; name one that has a folder of photographs for each class")
    train_data, test_data = read_tables(photos)
    try:
        fit_and_search(train_data, test_data, QUICK if arguments.quick else None)
    except SlurmtuneError as error:  # one line that says what to do
        raise SystemExit(f"automm_hpo.py: {error}") from None


def unpack(folder: Path, per_class: int = 10) -> Path:
    """Some of the bundled photographs, as a folder of class folders."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            parts = Path(name).parts
            if parts[0] == "train" and len(parts) == 3 and parts[1] in ("hat", "shoes", "pants", "dress"):
                path = folder / parts[1] / parts[2]
                if len(list(path.parent.glob("*.jpg"))) < per_class:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))
    return folder


def read_tables(photos: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three quarters to train, the rest to test."""
    rows = [(str(path), path.parent.name) for path in sorted(photos.glob("*/*")) if path.is_file()]
    table = pd.DataFrame(rows, columns=["image", "label"]).sample(frac=1, random_state=0, ignore_index=True)
    return table.iloc[len(table) // 4 :], table.iloc[: len(table) // 4]


def fit_and_search(train_data: pd.DataFrame, test_data: pd.DataFrame, everywhere: dict[str, object] | None) -> None:
    # The regular model fitting.
    predictor_regular = MultiModalPredictor(label="label", hyperparameters=everywhere)
    start_time = datetime.now()
    predictor_regular.fit(train_data=train_data, hyperparameters={"model.timm_image.checkpoint_name": "ghostnet_100"})
    elapsed = (datetime.now() - start_time).total_seconds()
    scores = predictor_regular.evaluate(test_data, metrics=["accuracy"])
    print("Regular: %.1f s, top-1 test accuracy %.3f" % (elapsed, scores["accuracy"]))  # noqa: T201, UP031

    # HPO during model fitting.
    predictor_hpo = MultiModalPredictor(label="label", hyperparameters=everywhere)
    hyperparameters = {
        "optimization.learning_rate": tune.uniform(0.00005, 0.001),
        "model.timm_image.checkpoint_name": tune.choice(["ghostnet_100", "mobilenetv3_large_100"]),
        "optimization.optim_type": tune.choice(["adamw", "sgd"]),
        "optimization.max_epochs": tune.choice(["10", "20"]),
    }
    hyperparameter_tune_kwargs = {
        "searcher": "bayes",
        "scheduler": "ASHA",
        "num_trials": 2,
        "num_to_keep": 3,
    }
    start_time_hpo = datetime.now()
    predictor_hpo.fit(
        train_data=train_data,
        hyperparameters=hyperparameters,
        hyperparameter_tune_kwargs=hyperparameter_tune_kwargs,
    )
    elapsed_hpo = (datetime.now() - start_time_hpo).total_seconds()
    scores_hpo = predictor_hpo.evaluate(test_data, metrics=["accuracy"])
    print("HPO: %.1f s, top-1 test accuracy %.3f" % (elapsed_hpo, scores_hpo["accuracy"]))  # noqa: T201, UP031

    # What AutoMM does not have.
    print(predictor_hpo.leaderboard().to_string())  # noqa: T201
    print(predictor_hpo.fit_summary())  # noqa: T201


if __name__ == "__main__":
    main()
