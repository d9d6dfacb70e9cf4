"""Site files: how one is chosen, what becomes of it in a job's script, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import Site, choose_site, parse_site, read_site, site_folders
from hpo.cluster.submission import TEMPLATES, render_script
from hpo.errors import UsageError
from hpo.layout import SweepDirectory

ROOT = Path(__file__).resolve().parents[2]
FULL = {
    "slurm": {"partition": "gpu", "account": "abc", "gpus_per_node": "a100:4", "gpus_as": "gres"},
    "limits": {"time": "2-00:00:00", "nodes": 4, "gpus_per_node": 4, "mem": "500G"},
    "modules": ["cuda/12.4", "gcc/12.3.0"],
    "activate": {"venv": "/shared/env"},
    "environment": {"NCCL_SOCKET_IFNAME": "ib0", "NOTE": 'say "hi" on $HOSTNAME'},
    "setup": ["ulimit -n 65536"],
    "runs": "/scratch/runs",
    "weights": "/scratch/hf",
    "offline": False,
    "node_local": ["$SLURM_TMPDIR", "/local/scratch"],
    "interface": "ib0",
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A person's own configuration, empty; and an administrator's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "admin"))
    for folder in ("own", "admin"):
        (tmp_path / folder / "slurmtune" / "sites").mkdir(parents=True)
    return tmp_path


def write(config, whose, name, text):
    (config / whose / "slurmtune" / name).write_text(text)


def test_flag_then_variable_then_configuration(config, monkeypatch):
    assert choose_site(None) == Site()
    write(config, "admin", "config.yaml", "site: big\n")
    write(config, "admin", "sites/big.yaml", "slurm: {partition: all}\n")
    assert choose_site(None).slurm == {"partition": "all"}
    write(config, "own", "sites/big.yaml", "slurm: {partition: mine}\n")
    assert choose_site(None).slurm == {"partition": "mine"}
    write(config, "own", "sites/small.yaml", "slurm: {partition: debug}\n")
    monkeypatch.setenv("SLURMTUNE_SITE", "small")
    assert choose_site(None).slurm == {"partition": "debug"}
    assert choose_site("big").slurm == {"partition": "mine"}
    assert choose_site("none") == Site()
    (config / "here.yaml").write_text("interface: ib0\n")
    assert choose_site(str(config / "here.yaml")).interface == "ib0"
    with pytest.raises(UsageError, match="there is no site 'smal'. Did you mean 'small'"):
        choose_site("smal")


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "sites").glob("*.yaml")), ids=lambda path: path.name)
def test_the_sites_that_come_with_slurmtune_are_valid(path, monkeypatch):
    for name in ("SCRATCH", "USER", "HOME"):
        monkeypatch.setenv(name, "/somewhere")
    assert read_site(path).path == str(path)


def test_there_is_one_to_copy_from():
    assert (site_folders()[-1] / "example.yaml").is_file()


@pytest.mark.parametrize("role", TEMPLATES)
def test_the_script_does_what_the_site_says_before_python_runs(role, tmp_path):
    site = parse_site(FULL, "big.yaml")
    request = SlurmRequest.from_words(site.slurm)
    script = render_script(request, SweepDirectory(tmp_path), "name", role, site)
    assert "#SBATCH --gres=gpu:a100:4\n" in script
    for line in (
        "module load cuda/12.4 gcc/12.3.0 || {",
        ". /shared/env/bin/activate || {",
        "ulimit -n 65536\n",
        'export HF_HOME="/scratch/hf"',
        'export HF_HUB_OFFLINE="0"',
        'export SLURMTUNE_INTERFACE="ib0"',
        'export SLURMTUNE_LOCAL_DIRS="$SLURM_TMPDIR:/local/scratch"',
        "PYTHON=/shared/env/bin/python",
    ):
        assert line in script
    assert script.index("module load") < script.index('. "$ROOT/slurm/job.sh"')
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    shown = subprocess.run(["bash", "-c", '\n'.join([*site.lines()[4:6], 'echo "$NOTE"'])], env={"HOSTNAME": "n1"},
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert shown.stdout == 'say "hi" on n1\n'


def test_what_fails_on_a_host_is_said_and_ends_the_job(tmp_path):
    site = parse_site({"activate": {"venv": str(tmp_path)}})
    script = "\n".join(["set -euo pipefail", *site.lines(), "echo went on"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "bin/activate failed on this host" in done.stderr
    assert done.stdout == ""


def test_a_site_survives_the_trip_through_the_directory():
    site = parse_site(FULL, "/x/big.yaml")
    assert Site.from_json(site.to_json()) == site
    assert Site.from_json(None) == Site()
    assert site.name == "big"


def test_conda_and_apptainer(tmp_path):
    conda = parse_site({"activate": {"conda": "tune", "base": "/opt/conda"}})
    assert '. "/opt/conda/etc/profile.d/conda.sh"\nconda activate tune || {' in "\n".join(conda.lines())
    assert conda.python == "python3"
    image = parse_site({"activate": {"apptainer": "/images/tune.sif", "bind": ["/data"]}})
    script = render_script(SlurmRequest(), SweepDirectory(tmp_path), "name", "attempt", image)
    [container] = [line for line in script.splitlines() if line.startswith("CONTAINER=")]
    assert container == (
        r'CONTAINER="apptainer exec --nv --bind \"\$ROOT\" --bind \"\${RUN:-\$PWD}\" --bind \"/data\" /images/tune.sif"'
    )
    assert "COMMAND='python3 -u -m submitit" in script


WRONG = [
    ("slurm: {partitoin: gpu}", "unknown key slurm.partitoin. Did you mean 'partition'"),
    ("modles: [cuda]", "Did you mean 'modules'"),
    ("modules: cuda/12.4", "modules must be a list"),
    ("modules: ['cuda; rm -rf ~']", "no module's name"),
    ("slurm: gpu", "slurm must be a mapping"),
    ("slurm: {time: 4h}", "SLURM's forms"),
    ("slurm: {gpus_per_node: '4:a100'}", "TYPE:NUMBER"),
    ("slurm: {gpus_as: gpus}", "gpus_as must be one of"),
    ("limits: {time: soon}", "SLURM's forms"),
    ("limits: {partition: gpu}", "unknown key limits.partition"),
    ("limits: {nodes: many}", "--nodes must be a whole number"),
    ("activate: {venv: /a, conda: b}", "activate takes one of venv, conda, apptainer"),
    ("activate: {virtualenv: /a}", "activate takes one of"),
    ("activate: {conda: x, bind: [/a]}", "unknown key activate.bind"),
    ("activate: {venv: $SLURMTUNE_NOWHERE/env}", r"names \$SLURMTUNE_NOWHERE, which is not set"),
    ("weights: $SLURMTUNE_NOWHERE", "which is not set here"),
    ("offline: maybe", "offline must be true or false"),
    ("node_local: [scratch]", "must be a path from the root"),
    ("interface: 'ib0 up'", "no network interface"),
    ("environment: {A B: c}", "no variable with a text"),
    ('setup: ["a\\nb"]', "one line of text"),
    ("- a\n- b", "must be a YAML mapping"),
    ("slurm: {partition: gpu", "is not valid YAML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_sites_are_refused_with_one_line_that_names_the_file(text, message, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as refused:
        read_site(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"time": "3-0"}, "--time 3-0: site big allows at most 2-00:00:00"),
        ({"nodes": 5}, "--nodes 5"),
        ({"gpus_per_node": "a100:8"}, "--gpus-per-node 8"),
        ({"mem": "1T"}, "--mem 1T: site big allows at most 500G"),
    ],
)
def test_what_a_site_does_not_allow_is_refused(words, message):
    site = parse_site(FULL, "/x/big.yaml")
    site.check(SlurmRequest(nodes=4, time="2-0"))
    with pytest.raises(UsageError, match=message):
        site.check(SlurmRequest.from_words(words))
