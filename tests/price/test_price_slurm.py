"""The probe: a job that measures the paces on one host of the partition, and goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from small_sweeps import make_shards

from launch import check

MODEL = "model.timm_image.checkpoint_name"
SWEEP = """\
data: data
hyperparameters:
  model.timm_image.checkpoint_name: test_vit
  model.timm_image.pretrained: false
  optimization.learning_rate: {loguniform: [1e-4, 1e-1]}
  optimization.max_epochs: 9
  env.batch_size: 16
hyperparameter_tune_kwargs: {num_trials: 12, resources_per_trial: {num_cpus: 1}}
"""


def test_the_probe_on_the_real_slurm(slurm, shared_tmp, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_tmp / "cache"))
    make_shards(shared_tmp, 16)
    path = shared_tmp / "sweep.yaml"
    path.write_text(SWEEP)
    flags = ["--partition", "gpu", "--nodes", "1", "--gpus-per-node", "1", "--cpus-per-task", "2", "--mem", "3G"]
    runs = ["--runs-dir", str(shared_tmp / "runs"), "--set", "env.accelerator=cpu"]
    assert check.main([str(path), *flags, *runs, "--probe", "--by", "2-0", "--json"]) == 0, capsys.readouterr()
    price = json.loads(capsys.readouterr().out)["price"]
    assert price["earliest_start"] >= time.time() - 60
    assert price["place"].startswith("partition gpu, any GPU,")
    assert [kind["pace"]["device"] for kind in price["kinds"]] == ["cpu"]
    assert any(note.startswith("by ") for note in price["notes"])
    assert not list(Path(shared_tmp / "runs").iterdir())  # the probe's directory is gone again
