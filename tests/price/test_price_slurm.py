"""The probe: a job that measures the paces on one host of the partition, and goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from small_sweeps import MODEL, PRICED, make_shards

from launch import check


def test_the_probe_on_the_real_slurm(slurm, shared_tmp, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_tmp / "cache"))
    make_shards(shared_tmp, 16)
    path = shared_tmp / "sweep.yaml"
    path.write_text(PRICED)
    flags = ["--partition", "gpu", "--nodes", "1", "--gpus-per-node", "1", "--cpus-per-task", "2", "--mem", "3G"]
    runs = ["--runs-dir", str(shared_tmp / "runs"), "--set", "env.accelerator=cpu", "--set", f"{MODEL}=test_vit"]
    assert check.main([str(path), *flags, *runs, "--probe", "--by", "2-0", "--json"]) == 0, capsys.readouterr()
    price = json.loads(capsys.readouterr().out)["price"]
    assert price["earliest_start"] >= time.time() - 60
    assert price["place"].startswith("partition gpu, any GPU,")
    assert [kind["pace"]["device"] for kind in price["kinds"]] == ["cpu"]
    assert any(note.startswith("by ") for note in price["notes"])
    assert not list(Path(shared_tmp / "runs").iterdir())  # the probe's directory is gone again
