"""Sites, sbatch's words and the templates on a real SLURM."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from hpo.cluster.jobs import queue_states

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]

APPTAINER = """#!/bin/bash
# Stands in for Apptainer: notes what it was given, and starts the command.
echo "$@" >> "$(dirname "$0")/calls"
shift
while [[ $1 == --* ]]; do [ "$1" = --bind ] && shift; shift; done
shift
[ "$1" = python3 ] && set -- "$REAL_PYTHON" "${@:2}"
exec "$@"
"""


def shown(slurm, job):
    """scontrol's words about a job."""
    answer = slurm.run("scontrol", "show", "job", job).stdout
    return {key: value for line in answer.splitlines() for key, _, value in [line.strip().partition("=")]}


def test_sbatch_takes_every_word(slurm, shared_tmp, write_sweep, submit):
    path = write_sweep(shared_tmp, trials=2)
    first = slurm.run("sbatch", "--parsable", "-p", "gpu", "-o", "/dev/null", "--wrap", "sleep 300").stdout.strip()
    words = ["-p", "gpu", "-A", "tb", "-N", "2", "--gres", "gpu:2", "-c", "2", "--mem", "1G", "--time", "0-0:30",
             "--exclusive", "--exclude", "node3", "--begin", "now+1hour", "--dependency", f"afterany:{first}",
             "--nice", "10", "--mail-type", "end,fail", "--mail-user", "me@example.org", "--sbatch-arg=--hold",
             "--tmp", "0"]  # fmt: skip
    done = submit(path, *words, "--run-dir", shared_tmp / "run", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    about = shown(slurm, job)
    slurm.run("scancel", job, first)
    text = "\n".join(f"{key}={value}" for key, value in about.items())
    for expected in (
        *("JobState=PENDING", f"Dependency=afterany:{first}", "ExcNodeList=node3", "TimeLimit=00:30:00", "Nice=10"),
        *("MailUser=me@example.org", "MailType=END,FAIL", "Account=tb", "gres:gpu:2"),
    ):
        assert expected in text, expected
    assert about["Comment"] == f"slurmtune: 2 trials for val_accuracy of data, in {shared_tmp / 'run'}"
    assert "JobName=small" in slurm.run("scontrol", "show", "job", job).stdout


def variables_of_a_step(slurm, folder):
    """What SLURM puts into the environment of an array job's step, which has other memory and is bound to one CPU."""
    step = f"srun --cpu-bind=map_cpu:0 sh -c 'env -0 > {folder}/variables'"
    asked = ["--array=3", "--mem-per-cpu=100", "--time=1", "-o", "/dev/null", "--wrap", step]
    slurm.wait(slurm.run("sbatch", "--parsable", "-p", "gpu", *asked).stdout.strip() + "_3")
    pairs = (entry.partition("=")[::2] for entry in (folder / "variables").read_text().split("\0"))
    return {name: value for name, value in pairs if name.startswith("SLURM")}


def test_variables_of_a_job_and_of_a_person_do_not_mislead(slurm, shared_tmp, write_sweep, submit, monkeypatch):
    """A submit from inside of another job, by somebody who has given sbatch and squeue their defaults."""
    of_a_job = variables_of_a_step(slurm, shared_tmp)
    assert {"SLURM_ARRAY_TASK_ID", "SLURM_MEM_PER_CPU", "SLURM_CPU_BIND", "SLURM_PROCID"} <= of_a_job.keys()
    of_a_person = {"SBATCH_EXPORT": "NONE", "SBATCH_PARTITION": "gpu", "SBATCH_TIMELIMIT": "1", "SBATCH_NO_KILL": "no",
                   "SBATCH_OUTPUT": f"{shared_tmp}/theirs", "SBATCH_ARRAY_INX": "1-2", "SBATCH_MEM_PER_NODE": "10",
                   "SQUEUE_STATES": "SUSPENDED", "SLURM_TIME_FORMAT": "relative"}  # fmt: skip
    for name, value in {**of_a_job, **of_a_person}.items():
        monkeypatch.setenv(name, value)
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=1)
    done = submit(path, "--nodes", "2", "--time", "10", "--run-dir", run, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert queue_states([job]).keys() == {job}
    about = slurm.run("scontrol", "show", "job", job, "--oneliner").stdout.split()
    assert {"TimeLimit=00:10:00", "Partition=gpu"} <= set(about)
    assert slurm.wait(job, 400) == "COMPLETED", (run / "submitit" / f"{job}_0_log.out").read_text()
    assert json.loads(next(run.glob("attempts/*/ready.json")).read_text())["hosts"] == ["node1", "node2"]
    assert not (shared_tmp / "theirs").exists()


def test_a_job_by_hand_whose_environment_is_not_handed_on(slurm, shared_tmp, write_sweep):
    """Both hosts meet although srun, by sbatch's --export, would give them none of the batch script's variables."""
    path = write_sweep(shared_tmp, trials=2, epochs=1)
    asked = ["--export=NONE", "--partition", "gpu", ROOT / "slurm" / "gang.sbatch", path]
    job = slurm.run("sbatch", "--parsable", *asked, cwd=shared_tmp).stdout.strip()
    assert slurm.wait(job, 400) == "COMPLETED", (shared_tmp / f"slurm-{job}.out").read_text()
    assert json.loads(next(shared_tmp.rglob("attempts/*/ready.json")).read_text())["hosts"] == ["node1", "node2"]


def wait_for_head(slurm, shared_tmp, job):
    """Waits until Ray's head is up in the job's attempt, ends the job, and returns the sweep's directory."""
    end = time.monotonic() + 240
    while not (found := list(shared_tmp.rglob("attempts/*/head.json"))):
        state = slurm.state(job)
        assert time.monotonic() < end, state
        assert state in ("PENDING", "RUNNING", "CONFIGURING"), (state, slurm.script(job))
        time.sleep(0.2)
    slurm.run("scancel", job)
    slurm.wait(job)
    return found[0].parents[2]


def test_a_site_is_applied_to_the_job(slurm, shared_tmp, write_sweep, submit, monkeypatch):
    path = write_sweep(shared_tmp, trials=1, epochs=1)
    site = shared_tmp / "mine.yaml"
    site.write_text(
        f"slurm: {{partition: gpu, gpus_per_node: 1, gpus_as: gres, time: '10'}}\n"
        f"limits: {{nodes: 1}}\n"
        f"activate: {{venv: {sys.prefix}}}\n"
        f"setup: ['echo $VIRTUAL_ENV $SLURM_JOB_ID > {shared_tmp}/setup']\n"
        f"runs: {shared_tmp}/mine\nweights: {shared_tmp}/hf\nnode_local: [/dev/shm]\ninterface: eth0\n"
    )
    monkeypatch.setenv("SLURMTUNE_SITE", str(site))
    refused = submit(path, "--nodes", "2")
    assert refused.returncode == 2
    assert f"--nodes 2: site mine allows at most 1 ({site})" in refused.stderr
    done = submit(path, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    run = wait_for_head(slurm, shared_tmp, job)
    assert run.parent == shared_tmp / "mine"
    assert (shared_tmp / "setup").read_text().split() == [sys.prefix, job]
    head = json.loads(next(run.glob("attempts/*/head.json")).read_text())
    assert head["temp"].startswith(f"/dev/shm/r{os.getuid()}/")
    assert json.loads((run / "resolved.json").read_text())["site"]["interface"] == "eth0"


def by_hand(slurm, shared_tmp, template, *arguments, **environ):
    """sbatch of a template as its README says, until its attempt has begun; the sweep's directory."""
    command = ["sbatch", "--parsable", "--partition", "gpu", ROOT / "slurm" / template, *arguments]
    job = slurm.run(*command, cwd=shared_tmp, env={**os.environ, **environ}).stdout.strip()
    return wait_for_head(slurm, shared_tmp, job)


def test_the_template_for_one_host_by_hand(slurm, shared_tmp, write_sweep):
    path = write_sweep(shared_tmp, trials=1, epochs=1)
    run = by_hand(slurm, shared_tmp, "single.sbatch", path, "--set", "name=other")
    assert run.parent == shared_tmp / "runs"
    assert run.name.startswith("other-")


def test_the_template_for_apptainer_by_hand_with_a_program_in_its_place(slurm, shared_tmp, write_sweep):
    path = write_sweep(shared_tmp, trials=1, epochs=1)
    program = shared_tmp / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    paths = f"{program.parent}:{os.environ['PATH']}"
    run = by_hand(slurm, shared_tmp, "apptainer.sbatch", path, PATH=paths, REAL_PYTHON=sys.executable,
                  IMAGE="/images/tune.sif")  # fmt: skip
    staged, ran = (program.parent / "calls").read_text().splitlines()
    assert staged.startswith(f"exec --nv --bind {ROOT} --bind {shared_tmp} ")
    assert ran.startswith(
        f"exec --nv --bind {ROOT} --bind {run} --bind {shared_tmp} /images/tune.sif python3 -u -m hpo"
    )


@pytest.mark.parametrize("name", ["gang", "single", "pool_head", "pool_worker", "apptainer"])
def test_sbatch_takes_the_template(slurm, name):
    asked = slurm.run(
        "sbatch", "--test-only", "--partition", "gpu", ROOT / "slurm" / f"{name}.sbatch", "x", check=False
    )
    assert asked.returncode == 0, asked.stderr
