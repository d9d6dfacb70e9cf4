"""Children end with us, whatever ends us; free ports are free; temp directories are ours alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from hpo.cluster import raynode
from hpo.cluster.allocation import Allocation, count_gpus, find_allocation
from hpo.cluster.processes import Child, end_processes, find_processes
from hpo.cluster.rendezvous import Rendezvous, own_address, reachable
from hpo.errors import ClusterError

# a child that ignores SIGTERM and starts a grandchild that does so too
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 2: subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]])
print("up", flush=True)
time.sleep(60)
"""


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_stubborn_child_and_its_children_are_ended(tmp_path):
    mark = f"mark-{tmp_path.name}-{os.getpid()}"
    with (tmp_path / "log").open("ab") as log:
        child = Child("x", [sys.executable, "-c", STUBBORN, mark, STUBBORN], os.environ, log, ignore_usr=True)
        wait_until(lambda: len(find_processes(mark)) == 2)
        child.send(signal.SIGUSR2)  # some sites send it to every process of a job
        time.sleep(0.2)
        assert len(find_processes(mark)) == 2
        child.end(grace_s=0.3)
    wait_until(lambda: find_processes(mark) == [])


def test_a_child_hears_of_it_when_its_parent_is_killed_outright(tmp_path):
    mark = f"orphan-{tmp_path.name}-{os.getpid()}"
    parent = (
        "import os, sys, time\nfrom hpo.cluster.processes import Child\n"
        f"command = [sys.executable, '-c', 'import time; time.sleep(60)', {mark!r}]\n"
        "Child('x', command, os.environ, open('/dev/null', 'ab'), True)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    wait_until(lambda: len(find_processes(mark)) >= 1)
    process.kill()
    process.wait()
    wait_until(lambda: find_processes(mark) == [])


def test_processes_with_our_mark_are_found_and_killed(tmp_path):
    mark = f"left-{tmp_path.name}-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "TEMP_MARK": mark}
    )
    wait_until(lambda: find_processes(mark) == [process.pid])
    assert end_processes([process.pid]) == []
    process.wait()


@pytest.fixture
def allocation():
    return Allocation(attempt="local.abcdef12", job="", rank=0, nodes=1, cpus=2, gpus=0, memory_mb=None, end_time=None)


def test_a_taken_port_moves_the_slot(allocation, monkeypatch, tmp_path):
    monkeypatch.setattr(raynode, "_make_temp", lambda attempt: tmp_path)
    first = raynode.prepare_node(allocation, "127.0.0.1").slot
    with socket.socket() as neighbour:
        neighbour.bind(("0.0.0.0", first + 3))
        neighbour.listen()
        second = raynode.prepare_node(allocation, "127.0.0.1").slot
    assert second != first
    ephemeral = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])  # noqa: PTH123, SIM115
    assert second + 255 < ephemeral


def test_the_temp_directory_is_short_and_its_parent_ours_alone(allocation, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))  # too long for Ray's sockets: falls back
    node = raynode.prepare_node(allocation, "127.0.0.1")
    try:
        assert len(bytes(node.temp)) <= 43
        assert node.temp.parent.stat().st_mode & 0o777 == 0o700
    finally:
        raynode.remove_temp(node)


def test_a_parent_that_others_may_enter_is_refused(allocation, monkeypatch, tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as base:
        monkeypatch.setenv("TMPDIR", base)
        parent = raynode.Path(base) / f"r{os.getuid()}"
        parent.mkdir(mode=0o755)
        with pytest.raises(ClusterError, match="mode 0700"):
            raynode.prepare_node(allocation, "127.0.0.1")


def test_no_token_in_the_environment_or_on_the_command_line(allocation, tmp_path):
    token = tmp_path / "ray_token"
    token.write_text("sesame")
    node = raynode.RayNode(allocation, tmp_path, 20000, "127.0.0.1")
    environ = raynode.ray_environment(token, node, {"RAY_AUTH_TOKEN": "leaked", "PATH": "/bin"})
    assert environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in environ
    assert not any("sesame" in text for text in [*environ.values(), *node.command(), *node.command("1.2.3.4:5")])
    assert "--include-dashboard=false" in node.command()
    assert "--head" not in node.command("1.2.3.4:5")


@pytest.mark.parametrize(
    ("devices", "count"),
    [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0,1,3", 3), ("GPU-aa,GPU-bb", 2), ("MIG-1/2/3", 1)],
)
def test_gpus_are_counted_in_every_form(devices, count):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": devices}) == count


def test_slurms_environment_gives_the_allocation():
    environ = {
        "SLURM_JOB_ID": "42", "SLURM_PROCID": "1", "SLURM_JOB_NUM_NODES": "3", "SLURM_RESTART_COUNT": "2",
        "SLURMTUNE_ATTEMPT": "a1b2c3", "SLURM_CPUS_PER_TASK": "1", "SLURM_MEM_PER_NODE": "4000",
        "SLURM_JOB_END_TIME": "1795519520", "CUDA_VISIBLE_DEVICES": "0,1",
    }  # fmt: skip
    found = find_allocation(environ)
    assert (found.attempt, found.rank, found.nodes, found.cpus) == ("42.2.a1b2c3", 1, 3, 1)
    assert (found.gpus, found.memory_mb, found.end_time) == (2, 4000, 1795519520.0)
    here = find_allocation({})
    assert (here.job, here.rank, here.nodes) == ("", 0, 1)
    assert here.cpus == len(os.sched_getaffinity(0))


def test_hosts_meet_in_the_attempts_folder(tmp_path):
    one, other = Rendezvous(tmp_path / "a"), Rendezvous(tmp_path / "a")
    assert other.read("head") is None
    one.announce("head", gcs="h:1")
    assert other.read("head") == {"gcs": "h:1"}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "head.json").stat().st_mode & 0o777 == 0o600
    assert not other.stopped
    one.stop()
    assert other.stopped


def test_addresses(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert reachable(f"127.0.0.1:{port}")
    assert not reachable(f"127.0.0.1:{port}", 0.2)
    assert socket.inet_aton(own_address())
    monkeypatch.setenv("SLURMTUNE_INTERFACE", "lo")
    assert own_address() == "127.0.0.1"
    monkeypatch.setenv("SLURMTUNE_INTERFACE", "nosuch0")
    with pytest.raises(ClusterError, match="nosuch0"):
        own_address()
