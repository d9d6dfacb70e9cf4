"""Device, precision, threads; and the refusal to train on the CPU where a GPU was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpo.errors import AcceleratorError, TrialError, UsageError
from hpo.trial.device import close_accelerator, open_accelerator, set_threads
from hpo.trialkeys import EnvConfig

ROOT = Path(__file__).resolve().parents[2]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def opened():
    """open_accelerator, closed after the test."""

    def build(**keys):
        return open_accelerator(EnvConfig(**keys))

    yield build
    close_accelerator()


@needs_no_gpu
def test_given_gpu_without_cuda_fails_at_once_with_the_reason(raw_data, tmp_path):
    command = [sys.executable, "-m", "hpo.trial", "--data", raw_data, "--out", tmp_path / "trial"]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5
    assert done.stdout == ""
    message = done.stderr.strip()
    assert "\n" not in message
    for words in (
        "CUDA_VISIBLE_DEVICES=0",
        f"torch {torch.__version__}",
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA",
        "driver",
        "env.accelerator: cpu",
        "SLURMTUNE_ACCELERATOR=cpu",
    ):
        assert words in message


@needs_no_gpu
@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", None])
def test_no_gpu_given_is_the_cpu(opened, monkeypatch, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert opened().device.type == "cpu"
    with pytest.raises(AcceleratorError, match="CUDA_VISIBLE_DEVICES="):
        opened(accelerator="gpu")


def test_cpu_is_taken_when_asked_for_whatever_was_given(opened, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert opened(accelerator="cpu").device.type == "cpu"
    monkeypatch.setenv("SLURMTUNE_ACCELERATOR", "cpu")
    assert opened(accelerator="gpu").device.type == "cpu"
    monkeypatch.setenv("SLURMTUNE_ACCELERATOR", "cpus")
    with pytest.raises(UsageError, match="Did you mean 'cpu'"):
        opened()


@pytest.mark.parametrize(("precision", "used"), [("auto", "no"), ("bf16", "bf16"), ("32", "no"), ("16", "no")])
def test_precision_on_the_cpu(opened, precision, used):
    accelerator = opened(accelerator="cpu", precision=precision)
    assert accelerator.mixed_precision == used
    assert accelerator.num_processes == 1


def test_launchers_variables_make_no_ranks(opened, monkeypatch):
    """srun exports PMI_SIZE to each task of a step, and Accelerate would wait for that many processes."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = opened(accelerator="cpu")
    assert accelerator.num_processes == 1
    assert accelerator.gradient_accumulation_steps == 1
    assert os.environ["PMI_SIZE"] == "2"


def test_more_than_one_process_is_refused(opened, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrialError, match="WORLD_SIZE is 2"):
        opened(accelerator="cpu")


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        monkeypatch.setenv("SLURMTUNE_CPUS", "3")
        assert set_threads() == torch.get_num_threads() == 3
        monkeypatch.setenv("SLURMTUNE_CPUS", "0.5")
        assert set_threads() == 1
        monkeypatch.delenv("SLURMTUNE_CPUS")
        assert set_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert set_threads() == len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)
