"""Faults that the doctor finds on the login node, each a real condition of the process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.check.controller import Site
from hpo.check.findings import Findings
from hpo.cluster.partitions import parse_partitions
from hpo.cluster.request import SlurmRequest
from hpo.cluster.sites import read_site
from hpo.doctor.environment import check_environment, read_ranges
from hpo.doctor.propose import propose, write_first
from hpo.doctor.storage import check_storage
from launch.doctor import main

ROOT = Path(__file__).resolve().parents[2]


def errors(check, *arguments):
    findings = Findings()
    check(*arguments, findings)
    said = [str(error) for error in findings.errors]
    assert not [text for text in said if "\n" in text]
    return said


def install(folder, name, version):
    """A package's metadata as pip leaves it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_this_environment_is_fit():
    assert errors(check_environment) == []
    assert ("timm", "1.0.20", "1.1") in read_ranges((ROOT / "pyproject.toml").read_text())


def test_a_package_outside_its_range_is_named_with_the_range(tmp_path, monkeypatch):
    install(tmp_path, "timm", "0.9.2")
    monkeypatch.syspath_prepend(tmp_path)
    [error] = errors(check_environment)
    assert "timm is 0.9.2, not 1.0.20 or newer and older than 1.1" in error
    assert "run `make .venv`" in error


def test_a_missing_package_is_named(tmp_path):
    """A Python that has nothing: the doctor still speaks."""
    code = (
        "import sys; from hpo.check.findings import Findings; from hpo.doctor.environment import check_environment; "
        "f = Findings(); check_environment(f); print(*f.errors)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}"],
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    assert "torch is missing" in done.stdout
    assert "run `make .venv`" in done.stdout


def test_a_torchvision_made_for_another_torch(tmp_path, monkeypatch):
    install(tmp_path, "torch", "2.10.0")
    install(tmp_path, "torchvision", "0.29.1")
    monkeypatch.syspath_prepend(tmp_path)
    [error] = errors(check_environment)
    assert "torchvision 0.29.1 is not made for torch 2.10.0, which goes with torchvision 0.25" in error
    assert "'torchvision==0.25.*'" in error


def test_a_package_that_pythonpath_hides(tmp_path, monkeypatch):
    (tmp_path / "h5py").mkdir()
    (tmp_path / "h5py" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    [error] = errors(check_environment)
    assert f"h5py comes from {tmp_path}, which PYTHONPATH names" in error
    assert "unset PYTHONPATH" in error


def test_a_package_of_ones_own_that_hides_the_environments(tmp_path, monkeypatch):
    (tmp_path / "h5py").mkdir()
    (tmp_path / "h5py" / "__init__.py").write_text("")
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    [error] = errors(check_environment)
    assert f"h5py comes from {tmp_path}, not from {sys.prefix}" in error
    assert "export PYTHONNOUSERSITE=1" in error


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(options) -> a file system of that size of its own."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting needs root")
    mounted = []

    def mount(options):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk, tmp_path):
    place = small_disk("size=1m")
    [error] = errors(check_storage, place / "runs", tmp_path)
    assert f"{place / 'runs'} (sweeps) has only 0.001 GB free" in error
    assert "--runs-dir" in error


def test_no_inodes_left(small_disk, tmp_path):
    place = small_disk("size=3g,nr_inodes=50")
    [error] = errors(check_storage, tmp_path, place)
    assert "(weights) has room for only 49 more files" in error
    assert "set HF_HOME" in error


def test_a_directory_that_cannot_be_written(small_disk, tmp_path):
    place = small_disk("size=3g,ro")
    [error] = errors(check_storage, place, tmp_path)
    assert "(sweeps) cannot be written (Read-only file system)" in error


def doctor(capsys, *arguments):
    """Its exit code and what it found."""
    code = main([*map(str, arguments), "--json", "--no-jobs"])
    return code, json.loads(capsys.readouterr().out)


def test_no_slurm_on_the_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    code, found = doctor(capsys, "--runs-dir", tmp_path)
    assert code == 4
    [text] = [one["text"] for one in found if one["level"] == "error"]
    assert "SLURM's sbatch is not on this machine's PATH" in text
    assert "login node" in text


def test_a_site_file_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = "slurm:\n  partition: gpu\n"
    path, default = write_first("big", text)
    assert path == tmp_path / "slurmtune" / "sites" / "big.yaml"
    assert default
    assert read_site(path).slurm == {"partition": "gpu"}
    path.write_text("slurm: {partition: mine}\n")
    assert write_first("big", text) == (None, False)
    assert path.read_text() == "slurm: {partition: mine}\n"
    assert write_first("small", text)[1] is False  # the default stays the person's
    assert (tmp_path / "slurmtune" / "config.yaml").read_text() == "site: big\n"


def host(name, ways=None, own="eth0", places=None, **interfaces):
    """As hpo.doctor.node says it."""
    known = {name: {"address": "10.0.0.1", "fast": fast} for name, fast in interfaces.items()}
    said = {"host": name, "interface": own, "interfaces": known, "places": places or {}}
    return said if ways is None else {**said, "ways": ways}


ONE = {"$SLURM_TMPDIR": 9 * 10**11, "/local": 8 * 10**11, "/tmp": 10**10}


@pytest.mark.parametrize(
    ("hosts", "lines"),
    [
        ([], ["# node_local: [$SLURM_TMPDIR]", "# interface: ib0"]),
        ([host("a", places=ONE, eth0=False)], ["node_local: [$SLURM_TMPDIR, /local, /tmp]   # 900 GB free in the "
         "first, on a", "# interface: eth0"]),
        ([host("a", places=ONE, eth0=False), host("b", ["eth0"], places={"/tmp": 2 * 10**9}, eth0=False)],
         ["node_local: [/tmp]   # 2 GB free in the first, on a, b", "# interface: eth0                 # hosts take"]),
        ([host("a", eth0=False, ib0=True), host("b", ["eth0", "ib0"], eth0=False, ib0=True)],
         ["# node_local: [$SLURM_TMPDIR]    # none found on a, b", "interface: ib0   # b reached a by it, which has "
          "eth0 by itself"]),
        ([host("a", own="", eth0=False, eth1=False), host("b", ["eth1"], eth0=False, eth1=False)],
         ["interface: eth1   # b reached a by it"]),
    ],
)  # fmt: skip
def test_a_first_site_file_has_what_the_hosts_of_the_short_job_found(hosts, lines, tmp_path):
    [partition] = parse_partitions("gpu*|2|gpu:a100:4|1-00:00:00|64|256000")
    answers = Site(None, None, None, None, frozenset(), frozenset())
    text = propose(partition, [partition], answers, SlurmRequest(), hosts)
    for line in lines:
        assert f"\n{line}" in text
    (tmp_path / "site.yaml").write_text(text)
    site = read_site(tmp_path / "site.yaml")
    assert site.interface == (lines[-1].split()[1] if lines[-1].startswith("interface") else "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--wait", "long"], "--wait takes a number of seconds"), (["--site", "no/x.yaml"], "cannot be read")],
)
def test_wrong_flags_are_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
