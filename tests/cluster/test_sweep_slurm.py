"""A real sweep on a real SLURM: submitted, run on two hosts, looked at, cancelled, resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpo.records import SweepState, read_events

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
OURS = ("raylet", "gcs_server", "hpo.cluster", "submitit", "ray::", "ray.scripts")


def assert_hosts_are_clean(slurm, seconds=5):
    end = time.monotonic() + seconds
    while left := [(node, line) for node in ("node1", "node2", "node3") for line in slurm.processes(node, *OURS)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)
    for node in ("node1", "node2", "node3"):
        temp = slurm.node("exec", node, "sh", "-c", f"ls /tmp/r{os.getuid()} 2>/dev/null; true").stdout
        assert temp.strip() == "", (node, temp)


def test_two_hosts_from_submit_to_results(slurm, shared_tmp, write_sweep, submit, results):
    path = write_sweep(shared_tmp, trials=6)
    run = shared_tmp / "run 1 of 'two'"  # paths have blanks and quotes
    asked = (path, "--partition", "gpu", "--nodes", "2", "--gpus-per-node", "2", "--time", "00:10:00", "--run-dir", run)
    dry = submit(*asked, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert not run.exists()

    done = submit(*asked, "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert slurm.script(job) == dry.stdout
    assert slurm.wait(job) == "COMPLETED", (run / "submitit" / f"{job}_0_log.out").read_text()
    assert_hosts_are_clean(slurm)

    state = SweepState(read_events(run / "journal.jsonl"))
    assert state.ended
    assert len(state.trials) == 6
    assert {metrics["host"] for t in state.trials.values() for metrics in t.last.values()} == {"node1", "node2"}
    ready = json.loads(next(run.glob("attempts/*/ready.json")).read_text())
    assert ready["hosts"] == ["node1", "node2"]
    assert results(run)["best"] == state.incumbent().id
    assert (run / "report.html").is_file()
    assert (run / "best" / "weights.safetensors").is_file()
    retrain_on_slurm(slurm, run)


def retrain_on_slurm(slurm, run):
    """The best trial and the default again with two seeds, each a job of its own."""
    retrain = [sys.executable, ROOT / "launch" / "retrain.py", run]
    slurm.run(*retrain, "--top", "1", "--seeds", "2", "--nodes", "1", timeout=120)
    jobs = slurm.run("squeue", "-h", "-o", "%A").stdout.split()
    assert len(jobs) == 2
    assert [slurm.wait(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
    said = json.loads(slurm.run(*retrain, "--json").stdout)
    assert len(said["seeds"]) == 2
    assert said["unfinished"] == []
    assert all(len(candidate["values"]) == 2 for candidate in said["candidates"])


def test_a_job_that_ends_early_leaves_nothing_and_goes_on(slurm, shared_tmp, write_sweep, submit, wait_for_event):
    """Queued again by itself, as before its walltime; then cancelled; then gone on with, for one trial more."""
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2, epochs=50, per_class=40)
    flags = ("--set", "scheduler=FIFO", "--set", "optim.patience=999", "--gpus-per-node", "3", "--run-dir", run)
    job = json.loads(submit(path, "--partition", "gpu", *flags, "--json").stdout)["job"]
    wait_for_event(run, lambda s: any(t.epochs for t in s.trials.values()))
    refused = submit("--resume", run)
    assert refused.returncode == 7
    assert "is being written by attempt" in refused.stderr
    slurm.run("scancel", "--signal=USR2", job)
    state = wait_for_event(run, lambda s: len(s.attempts) == 2, timeout=300)
    assert "SIGUSR2" in state.attempts[0]["ended"]["reason"]
    before = wait_for_event(run, lambda s: any(t.state == "running" for t in s.trials.values()))
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    assert_hosts_are_clean(slurm)
    state = SweepState(read_events(run / "journal.jsonl"))
    assert {event["job"] for event in state.attempts} == {job}
    assert "SIGTERM" in state.attempts[1]["ended"]["reason"]

    again = json.loads(submit("--resume", run, "--num-trials", "+1", "--json").stdout)["job"]
    assert slurm.wait(again, timeout=400) == "COMPLETED"
    assert_hosts_are_clean(slurm)
    after = SweepState(read_events(run / "journal.jsonl"))
    assert after.ended
    assert len(after.trials) == 3
    assert all(sorted(trial.last) == list(range(1, 51)) for trial in after.trials.values())  # none left out
    for trial in before.trials.values():
        assert after.trials[trial.id].params == trial.params
        assert {e: after.trials[trial.id].first[e] for e in trial.first} == trial.first


def test_one_that_is_cancelled_before_it_began_is_not_watched_for_ever(
    slurm, shared_tmp, write_sweep, submit, monkeypatch, capsys
):
    from hpo.results import sequel
    from launch import results

    monkeypatch.setattr(sequel, "_EXIT_S", 0.0)
    monkeypatch.setattr(results, "_ASK_S", 0.5)
    all_hosts = slurm.run("sbatch", "--parsable", "-N3", "--exclusive", "--wrap", "sleep 300", "-o", "/dev/null")
    run = shared_tmp / "run"
    path = write_sweep(shared_tmp, trials=2)
    job = json.loads(submit(path, "--partition", "gpu", "--run-dir", run, "--json").stdout)["job"]
    assert slurm.state(job) == "PENDING"
    directory = results.read_results(results.open_results(run))
    assert not sequel.left_the_queue(directory, time.time())
    slurm.run("scancel", job, all_hosts.stdout.strip())
    assert results.main([str(run), "--watch", "1"]) == 75
    assert f"--resume {run}" in capsys.readouterr().out


def test_the_users_own_words(slurm, shared_tmp):
    """`python launch/submit.py --partition gpu`, by a Python that lacks the packages, in an empty directory."""
    bare = subprocess.run(["which", "-a", "python3"], capture_output=True, text=True, check=True).stdout.split()
    python = next(
        (p for p in bare if subprocess.run([p, "-c", "import submitit"], capture_output=True, check=False).returncode),
        None,
    )
    command = [python or sys.executable, ROOT / "launch" / "submit.py", "--partition", "gpu", "--set", "num_trials=2"]
    command += ["--set", "optimization.max_epochs=1", "--set", "model.timm_image.checkpoint_name=test_vit"]
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = slurm.run(*command, cwd=shared_tmp, env=environ)
    assert "the bundled demo" in done.stderr
    for flag in ("--nodes 1", "--gpus-per-node 2", "--time 01:00:00"):
        assert flag in done.stderr
    job = done.stdout.split()[1]
    directory = Path(done.stdout.splitlines()[1].split()[1])
    assert directory.parent == shared_tmp / "runs"
    assert "results.py" in done.stdout
    assert slurm.wait(job) == "COMPLETED", (directory / "submitit" / f"{job}_0_log.out").read_text()
    assert (shared_tmp / "runs" / "data" / "clothing-64px" / "manifest.json").is_file()  # made by the job
    assert SweepState(read_events(directory / "journal.jsonl")).ended
    assert_hosts_are_clean(slurm)


def test_sbatch_by_hand_with_the_template(slurm, shared_tmp, write_sweep):
    path = write_sweep(shared_tmp, trials=2, epochs=1)
    command = ["sbatch", "--parsable", "--partition", "gpu", ROOT / "slurm" / "gang.sbatch", path]
    job = slurm.run(*command, cwd=shared_tmp).stdout.strip()
    state = slurm.wait(job)
    log = (shared_tmp / f"slurm-{job}.out").read_text()
    assert state == "COMPLETED", log
    [run] = (shared_tmp / "runs").glob("small-*")
    assert SweepState(read_events(run / "journal.jsonl")).ended
    assert not list(shared_tmp.glob(".slurmtune-*"))


def test_what_sbatch_refuses_is_said_with_the_flag(slurm, shared_tmp, write_sweep, submit):
    path = write_sweep(shared_tmp, trials=2)
    runs = ("--runs-dir", shared_tmp / "runs")
    done = submit(path, "--partition", "gpu", "--constraint", "nosuch", *runs)
    assert done.returncode == 2  # before sbatch is asked
    assert "nosuch" in done.stderr
    done = submit(path, "--partition", "gpu", "--constraint", "nosuch", "--no-check", *runs)
    assert done.returncode == 4
    assert "sbatch refused" in done.stderr
    assert "--constraint" in done.stderr
    assert not list((shared_tmp / "runs").glob("*"))
    done = submit(path, "--partition", "gup", *runs)
    assert done.returncode == 2
    assert "Did you mean 'gpu'" in done.stderr
    for flag, value in (("--nodes", "9"), ("--gpus-per-node", "5"), ("--time", "2-0"), ("--cpus-per-task", "99")):
        done = submit(path, "--partition", "gpu", flag, value, *runs)
        assert done.returncode == 2  # before sbatch is asked: here such a job would wait for ever
        assert f"{flag} {value}: partition gpu has at most" in done.stderr


def test_a_site_that_demands_an_account(slurm, shared_tmp, write_sweep, submit):
    path = write_sweep(shared_tmp, trials=2)
    with slurm.require_account():
        done = submit(path, "--account", "nosuch", "--runs-dir", shared_tmp / "runs")
        assert done.returncode == 2  # before sbatch is asked
        assert "account 'nosuch' is not one of yours" in done.stderr
        done = submit(path, "--account", "tb", "--runs-dir", shared_tmp / "runs")
        assert done.returncode == 0, done.stderr


def test_without_slurm_it_says_so_and_names_the_other_way(slurm, shared_tmp, write_sweep, submit):
    path = write_sweep(shared_tmp, trials=2)
    done = submit(path, "--runs-dir", shared_tmp / "runs", env={**os.environ, "PATH": str(Path(sys.executable).parent)})
    assert done.returncode == 4
    assert "--cluster local" in done.stderr
    assert not (shared_tmp / "runs").exists()
