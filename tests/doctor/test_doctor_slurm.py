"""Faults of a site that the doctor finds by SLURM's own answers and by jobs of a minute, each on a real SLURM."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import zipfile
from pathlib import Path

import pytest

from hpo.cluster.sites import read_site
from launch.doctor import main

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]


def make_photos(folder):
    """Some photographs of the bundled ones, one folder a class."""
    with zipfile.ZipFile(ROOT / "launch" / "demo" / "clothing.zip") as archive:
        for name in ("hat", "shoes"):
            (folder / name).mkdir(parents=True)
            for i in range(1, 121):
                (folder / name / f"{i:03d}.jpg").write_bytes(archive.read(f"train/{name}/{i:03d}.jpg"))


@pytest.fixture
def doctor(slurm, shared_tmp, capsys, monkeypatch):
    """doctor(*flags, site=YAML) -> exit code, the errors' texts, all findings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(shared_tmp / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(shared_tmp / "none"))

    def run(*arguments, site=None, runs=None):
        words = [str(word) for word in arguments]
        if site is not None:
            (shared_tmp / "mine.yaml").write_text(f"slurm: {{partition: gpu, gpus_per_node: 0, mem: 2G}}\n{site}\n")
            words += ["--site", str(shared_tmp / "mine.yaml")]
        code = main([*words, "--runs-dir", str(runs or shared_tmp / "runs"), "--json"])
        found = json.loads(capsys.readouterr().out)
        errors = [one["text"] for one in found if one["level"] == "error"]
        assert code == (4 if errors else 0)
        assert not [text for text in errors if "\n" in text]
        return errors, found

    return run


@pytest.fixture
def second_network(slurm):
    """An interface ib0 on each host, beside the eth0 that its name leads to."""
    slurm.run("ip", "link", "add", "tb-br1", "type", "bridge")
    slurm.run("ip", "link", "set", "tb-br1", "up")
    for number, node in enumerate(slurm.hosts, start=1):
        slurm.run("ip", "link", "add", f"tbi-{node}", "type", "veth", "peer", "name", "ib0", "netns", f"tb-{node}")
        slurm.run("ip", "link", "set", f"tbi-{node}", "master", "tb-br1", "up")
        slurm.run("ip", "-n", f"tb-{node}", "addr", "add", f"10.88.0.{number}/24", "dev", "ib0")
        slurm.run("ip", "-n", f"tb-{node}", "link", "set", "ib0", "up")
    yield
    for node in slurm.hosts:
        slurm.run("ip", "link", "del", f"tbi-{node}")
    slurm.run("ip", "link", "del", "tb-br1")


def test_a_site_in_order_gets_a_file_and_two_jobs(doctor, shared_tmp, second_network):
    errors, found = doctor("--gpus-per-node", "0", "--mem", "2G")
    assert errors == []
    texts = [one["text"] for one in found if one["topic"] in ("one host", "2 hosts")]
    assert len(texts) == 2
    assert " ran on node" in texts[0]
    assert ", node" in texts[1]
    site = read_site(shared_tmp / "config" / "slurmtune" / "sites" / "testbed.yaml")
    assert (site.slurm["partition"], site.slurm["gpus_per_node"], site.limits["time"]) == ("gpu", 4, "01:00:00")
    assert (site.interface, site.node_local) == ("ib0", ("/tmp",))  # as the hosts found them
    assert (shared_tmp / "config" / "slurmtune" / "config.yaml").read_text() == "site: testbed\n"
    assert not list((shared_tmp / "runs").glob(".doctor*"))
    errors, _ = doctor("--gpus-per-node", "0", "--mem", "2G")  # the file is the default now, and hosts meet by ib0
    assert errors == []


def test_no_answer_from_the_controller(doctor, shared_tmp, monkeypatch):
    text = Path("/etc/slurm/slurm.conf").read_text().replace("SlurmctldPort=6817", "SlurmctldPort=6899")
    (shared_tmp / "slurm.conf").write_text(text)
    with monkeypatch.context() as only_here:
        only_here.setenv("SLURM_CONF", str(shared_tmp / "slurm.conf"))
        [error], _ = doctor("--no-jobs")
    assert "sinfo" in error
    assert "controller" in error


SITE = [  # flags, what the error says, and what it names as the remedy
    (["--partition", "gup"], "partition 'gup' does not exist here", "Did you mean 'gpu'"),
    (["--qos", "nosuch"], "QoS 'nosuch' does not exist here", "This site has normal"),
    (["--gpus-per-node", "h100:1"], "node configuration is not available", "change --gpus-per-node"),
    (["--gpus-per-node", "9"], "at most 4 GPUs a host", "ask for less"),
    (["--nodes", "9"], "at most 3 hosts", "ask for less"),
    (["--mem", "9000G"], "at most 8000 MB a host", "ask for less"),
    (["--time", "5-0"], "at most 60 minutes", "ask for less"),
    (["--constraint", "nosuch"], "feature 'nosuch'", "It has none"),
]


@pytest.mark.parametrize(("flags", "said", "remedy"), SITE, ids=lambda value: str(value)[:24])
def test_what_the_site_does_not_have(doctor, flags, said, remedy):
    errors, _ = doctor(*flags)
    assert said in errors[0]
    assert remedy in errors[0]


def blocks(kind):
    """Of docs/first-sweep.md."""
    page = (ROOT / "docs" / "first-sweep.md").read_text()
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


def test_an_account_and_a_partition_that_are_demanded_as_on_the_page_of_a_first_sweep(slurm, doctor, shared_tmp):
    """The page's commands up to the sweep itself, which the README's test runs, say what the page says."""
    make_photos(shared_tmp / "photos")
    (shared_tmp / "launch").symlink_to(ROOT / "launch")
    (shared_tmp / "my-sweep.yaml").write_text(blocks("yaml")[0])
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    said = ""
    with slurm.require_account():
        errors, _ = doctor("--account", "nobody", "--gpus-per-node", "0", "--no-jobs", "--no-write")
        assert "account 'nobody' is not one of yours" in errors[0]
        slurm.run("scontrol", "update", "partitionname=gpu", "default=no")
        for line in "".join(blocks("console")).splitlines():
            words = [sys.executable, *shlex.split(line)[2:], *(["--dry-run"] if "--time" in line else [])]
            if "runs/" not in line:
                done = slurm.run(*words, timeout=200, check=False, cwd=shared_tmp, env=environ)
                said += done.stdout + done.stderr
    for line in "".join(blocks("text")).splitlines()[:-3]:  # without what results.py says
        assert line in said or line.startswith("data/photos: "), said


def test_a_directory_that_hosts_do_not_see(doctor, tmp_path):
    [error], _ = doctor(site="", runs=tmp_path / "runs")
    assert "its host does not see or cannot write this directory" in error
    assert "shared storage" in error


def test_an_environment_that_hosts_do_not_see(doctor, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text("")
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    [error], _ = doctor(site=f"activate: {{venv: {tmp_path}}}")
    assert "fails on the host" in error
    assert "bin/activate" in error


def test_python_that_is_not_there(slurm, doctor, shared_tmp):
    venv = shared_tmp / "env" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text("")
    [error], _ = doctor(site=f"activate: {{venv: {venv.parent}}}")
    assert "Python does not start on the host" in error
    assert "shared storage" in error


def test_a_module_that_is_not_there(doctor):
    [error], _ = doctor(site="modules: [nosuch/1.0]")
    assert "mine.yaml fails on the host" in error
    assert "module load failed" in error


def test_an_interface_that_is_not_there(doctor):
    [error], _ = doctor(site="interface: ib7")
    assert "SLURMTUNE_INTERFACE=ib7" in error
    assert "ip -br addr" in error


def test_few_open_files(slurm, doctor):
    slurm.node("exec", "node1", "sh", "-c", "prlimit --pid $(cat /run/slurmd.pid) --nofile=1000")
    try:
        [error], _ = doctor("--nodelist", "node1", site="")
    finally:  # it can be lowered, never raised: a new slurmd
        slurm.node("crash", "node1")
        slurm.node("boot", "node1")
    assert "node1 lets a process open 1000 files" in error
    assert "LimitNOFILE" in error


def test_little_memory(doctor):
    [error], _ = doctor("--mem", "600M", site="")
    assert "600 MB" in error
    assert "raise --mem" in error


def test_gpus_without_a_driver(doctor):
    """The cluster's GPUs are device files."""
    [error], _ = doctor("--gpus-per-node", "2", site="")
    assert "gave 2 GPUs and has no NVIDIA driver" in error
    assert "--partition" in error


def test_gpus_that_a_step_is_not_shown(doctor, shared_tmp):
    """A site whose steps are not told which GPUs of their job are theirs."""
    python = shared_tmp / "python"
    python.write_text(f'#!/bin/sh\nunset CUDA_VISIBLE_DEVICES\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    errors, _ = doctor("--gpus-per-node", "2", site=f"setup: ['PYTHON={python}']")
    assert "shows 0 of 2 GPUs in CUDA_VISIBLE_DEVICES" in errors[0]
    assert "gpus_as: gres" in errors[0]


def test_a_small_shared_memory(slurm, doctor):
    for node in slurm.hosts:
        slurm.node("exec", node, "mount", "-o", "remount,size=50m", "/dev/shm")
    try:
        [error], _ = doctor(site="")
    finally:
        for node in slurm.hosts:
            slurm.node("exec", node, "mount", "-o", "remount,size=2g", "/dev/shm")
    assert "50 MB in /dev/shm" in error


def test_a_directory_of_rays_that_is_not_private(slurm, doctor):
    places = " ".join(f"/tmp/r{os.getuid()}{suffix}" for suffix in ("", "a", "b", "c"))
    for node in slurm.hosts:
        slurm.node("exec", node, "sh", "-c", f"mkdir -p {places} && chmod 777 {places}")
    try:
        [error], _ = doctor(site="")
    finally:
        for node in slurm.hosts:
            slurm.node("exec", node, "sh", "-c", f"rm -rf {places}")
    assert "is not a directory of ours with mode 0700; remove it, or set TMPDIR" in error


def test_hosts_that_are_drained(slurm, doctor):
    slurm.run("scontrol", "update", "nodename=node[1-3]", "state=drain", "reason=test")
    try:
        [error], _ = doctor("--wait", "8", site="")
    finally:
        slurm.run("scontrol", "update", "nodename=node[1-3]", "state=resume")
    assert "did not start" in error
    assert "sinfo -R" in error


def test_an_address_that_others_cannot_reach(doctor):
    [error], _ = doctor(site="interface: lo")
    assert "knows itself as 127.0.0.1" in error
    assert "interface:" in error


def test_a_network_that_leads_nowhere(slurm, doctor):
    """An address of each host to which no other host has a route: two hosts would never find each other."""
    for number, node in enumerate(slurm.hosts, start=1):
        slurm.node("exec", node, "ip", "addr", "add", f"10.99.{number}.1/32", "dev", "eth0", "label", "eth0:9")
    try:
        [error], _ = doctor(site="interface: eth0:9")
    finally:
        for number, node in enumerate(slurm.hosts, start=1):
            slurm.node("exec", node, "ip", "addr", "del", f"10.99.{number}.1/32", "dev", "eth0", "label", "eth0:9")
    assert "cannot reach node1 at 10.99.1.1" in error
    assert "interface:" in error


def test_hosts_between_which_slurm_itself_has_no_way(slurm, doctor):
    pairs = [(one, other) for one in (1, 2, 3) for other in (1, 2, 3) if one != other]
    for one, other in pairs:
        slurm.node("exec", f"node{one}", "ip", "route", "add", "prohibit", f"10.77.0.{10 + other}/32")
    try:
        [error], _ = doctor(site="")
    finally:
        for one, other in pairs:
            slurm.node("exec", f"node{one}", "ip", "route", "del", "prohibit", f"10.77.0.{10 + other}/32")
    assert "SLURM cannot start tasks" in error
    assert "--exclude" in error
