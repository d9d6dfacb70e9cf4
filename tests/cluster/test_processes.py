"""Children end with us, whatever ends us; free ports are free; temp directories are ours alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hpo.cluster import raynode, tempdir
from hpo.cluster.allocation import FOREGROUND, Allocation, count_gpus, find_allocation
from hpo.cluster.commands import clean_environment
from hpo.cluster.ports import find_slot, is_ours
from hpo.cluster.processes import Child, end_processes, find_processes, identify, is_there
from hpo.cluster.rendezvous import Rendezvous, find_live, own_address, reachable
from hpo.cluster.tempdir import TempDirectory
from hpo.errors import ClusterError
from hpo.layout import SweepDirectory

ROOT = Path(__file__).resolve().parents[2]
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


def test_a_taken_port_moves_the_slot():
    first = find_slot("local.abcdef12", 0, needed=8)
    neighbour = find_slot("local.abcdef12", 0, needed=8)  # at the same moment: the block is held
    assert neighbour.first != first.first
    neighbour.close()
    first.close()
    with socket.socket() as stranger:  # who does not know of our blocks
        stranger.bind(("0.0.0.0", first.first + 3))
        stranger.listen()
        second = find_slot("local.abcdef12", 0, needed=8)
        second.close()
    assert second.first != first.first
    again = find_slot("local.abcdef12", 0, needed=8)
    again.close()
    assert again.first == first.first
    ephemeral = int(open("/proc/sys/net/ipv4/ip_local_port_range").read().split()[0])  # noqa: PTH123, SIM115
    assert second.first + 255 < ephemeral


@pytest.mark.parametrize("first", [1024, 9000, 20500, 32768])
def test_there_is_a_block_whatever_ports_the_kernel_hands_out_itself(first):
    code = (
        f"open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('{first} 65535')\n"
        "from hpo.cluster.ports import find_slot; print(find_slot('local.abcdef12', 0, 8).first)"
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if "unshare" in done.stderr or "Permission" in done.stderr or "Read-only" in done.stderr:
        pytest.skip("no network namespace may be made here")
    assert done.returncode == 0, done.stderr
    slot = int(done.stdout)
    assert 1024 <= slot < first - 255 or first == 1024


def test_a_held_block_answers_nobody():
    slot = find_slot("local.abcdef12", 0, needed=8)
    assert not reachable(f"127.0.0.1:{slot.last + 1}", 0.5)
    slot.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be two users")
def test_who_listens_is_known_by_its_owner():
    """A neighbour who takes the head's port before our head does must not be told the token."""
    code = (
        "import os, socket; os.setuid(65534); s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); input()"
    )
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        assert not is_ours(own.getsockname()[1])
        own.listen()
        assert is_ours(own.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    port = int(process.stdout.readline())
    assert reachable(f"127.0.0.1:{port}")
    assert not is_ours(port)
    process.communicate(b"\n")


def test_the_temp_directory_is_short_and_its_parent_ours_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))  # too long for Ray's sockets: falls back
    temp = TempDirectory("local.abcdef12")
    try:
        assert len(bytes(temp.path)) <= 43
        assert temp.path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        temp.remove()
    assert not temp.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user than the directory's")
def test_a_directory_that_cannot_be_written_is_passed_over_or_named(short_base):
    code = (
        "import os; from hpo.cluster import tempdir; from hpo.errors import ClusterError\n"
        "tempdir._bases(); os.setuid(65534)  # with all of Python that this needs, which may be another's\n"
        "temp = tempdir.TempDirectory('local.abcdef12'); print(temp.path.parent.parent); temp.remove()\n"
        "tempdir._bases = tempdir._bases()[:1].copy\n"
        "try: tempdir.TempDirectory('local.abcdef12')\n"
        "except ClusterError as error: print(error)"
    )
    short_base.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    place, error = done.stdout.splitlines()
    assert place == "/tmp"
    assert error.startswith(f"of {short_base} on {socket.gethostname()} none can be written")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_is_said_with_the_remedy(short_base):
    """Of inodes, as on a small /tmp in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", short_base], check=True)
    try:
        with pytest.raises(ClusterError, match="No space left.*set TMPDIR"):
            TempDirectory("local.abcdef12")
    finally:
        subprocess.run(["umount", short_base], check=True)


def test_a_directory_that_hosts_share_is_not_used(short_base, monkeypatch):
    monkeypatch.setattr(tempdir, "is_shared", lambda path: path == short_base)
    temp = TempDirectory("local.abcdef12")
    assert temp.path.parent.parent == Path("/tmp")
    temp.remove()


@pytest.fixture
def short_base(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as base:
        monkeypatch.setenv("TMPDIR", base)
        yield Path(base)


def test_a_parent_that_others_may_enter_is_refused(short_base):
    (short_base / f"r{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(ClusterError, match="mode 0700"):
        TempDirectory("local.abcdef12")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be two users")
def test_a_parent_that_somebody_else_has_made_is_left_alone(short_base):
    (short_base / f"r{os.getuid()}").mkdir(mode=0o777)
    os.chown(short_base / f"r{os.getuid()}", 65534, 65534)
    temp = TempDirectory("local.abcdef12")
    assert temp.path.parent == short_base / f"r{os.getuid()}a"
    assert temp.path.parent.stat().st_mode & 0o777 == 0o700
    temp.remove()


def test_temp_directories_whose_supervisor_was_killed_go_and_others_stay(short_base):
    hold = (
        "import sys; from hpo.cluster.tempdir import TempDirectory; t = TempDirectory(sys.argv[1]);"
        "print(t.path, flush=True); sys.stdin.read()"
    )
    holders = [
        subprocess.Popen([sys.executable, "-c", hold, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("local.11111111", "local.22222222")
    ]
    paths = [Path(holder.stdout.readline().decode().strip()) for holder in holders]
    holders[0].kill()
    holders[0].wait()
    fresh = paths[0].parent / "local.33333333"  # which somebody is making at this moment
    fresh.mkdir()
    temp = TempDirectory("local.44444444")
    temp.remove_abandoned()
    assert [path.exists() for path in (*paths, fresh, temp.path)] == [False, True, True, True]
    temp.remove()
    holders[1].communicate(b"")


def test_the_janitor_ends_and_removes_what_a_killed_supervisor_leaves(tmp_path):
    parent = (
        "import sys, time; from pathlib import Path; from hpo.cluster.janitor import Janitor\n"
        "janitor = Janitor(Path(sys.argv[1])); print(janitor.pid, flush=True); time.sleep(60)"
    )
    temp = tmp_path / "temp"
    temp.mkdir()
    process = subprocess.Popen([sys.executable, "-c", parent, temp], stdout=subprocess.PIPE)
    janitor = int(process.stdout.readline())
    stray = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, "RAY_TMPDIR": str(temp)}
    )
    os.kill(janitor, signal.SIGTERM)  # sent to everything by whoever ends a job
    process.kill()
    process.wait()
    assert stray.wait(20) == -signal.SIGKILL
    wait_until(lambda: not temp.exists())
    wait_until(lambda: identify(janitor) == "")


def test_a_process_is_not_taken_for_an_earlier_one_of_its_number():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identify(process.pid)
    assert is_there(identity)
    assert not is_there(f"{process.pid}.1")
    process.kill()
    wait_until(lambda: not is_there(identity))  # a zombie runs no more
    process.wait()
    assert identify(process.pid) == ""


def test_children_leave_no_core_dump_even_where_we_would(tmp_path):
    """With the limit lifted for us, a child that crashes says that it dumped none."""
    crash = "import os; pid = os.fork(); pid or os.abort(); print(os.WCOREDUMP(os.waitpid(pid, 0)[1]), flush=True)"
    program = (
        "import os, resource, sys; from hpo.cluster.processes import Child\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]; resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        f"exec({crash!r})\n"
        f"child = Child('x', [sys.executable, '-c', {crash!r}], os.environ, open('log', 'ab'), True)\n"
        "child._process.wait()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (tmp_path / "log").read_text() == "False\n"
    if done.stdout != "True\n":
        pytest.skip("no process of this machine may dump core")


def test_no_token_in_the_environment_or_on_the_command_line(allocation, tmp_path):
    token = tmp_path / "ray_token"
    token.write_text("sesame")
    slot = find_slot("local.abcdef12", 0, needed=8)
    slot.close()
    node = raynode.RayNode(allocation, tmp_path, slot, "127.0.0.1")
    environ = raynode.ray_environment(token, tmp_path, "127.0.0.1", {"RAY_AUTH_TOKEN": "leaked", "PATH": "/bin"})
    assert environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in environ
    assert not any("sesame" in text for text in [*environ.values(), *node.arguments(), *node.arguments("1.2.3.4:5")])
    assert "--include-dashboard=false" in node.arguments()
    assert "--head" not in node.arguments("1.2.3.4:5")


def test_a_job_that_a_pool_submits_has_the_persons_environment(tmp_path):
    """Not the head's temp directory, nor what is local to the head's host."""
    before = {"PATH": "/bin", "TMPDIR": "/scratch/me", "no_proxy": "example.org", "SLURM_CONF": "/etc/s.conf"}
    of_the_job = {"SLURM_JOB_ID": "7", "SLURMTUNE_ATTEMPT": "abc", "SBATCH_PARTITION": "gpu"}
    after = clean_environment(raynode.ray_environment(tmp_path, tmp_path, "10.0.0.1", {**before, **of_the_job}))
    assert {name: after.get(name) for name in before} == before
    assert not {"SLURMTUNE_LOCAL_DIRS", "SLURMTUNE_SUPERVISED", "NO_PROXY", *of_the_job} & after.keys()
    assert not any(name.startswith("RAY_") or str(tmp_path) in value for name, value in after.items())


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


def test_a_local_attempt_in_an_interactive_job_is_not_the_jobs():
    """`srun --pty bash`, then submit.py --cluster local: the hosts' other tasks are not ours, the job's end is."""
    environ = {
        "SLURM_JOB_ID": "42", "SLURM_PROCID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "1",
        "SLURM_JOB_END_TIME": "1795519520", FOREGROUND: "1.2",
    }  # fmt: skip
    found = find_allocation(environ)
    assert (found.job, found.rank, found.nodes, found.cpus, found.end_time) == ("", 0, 1, 1, 1795519520.0)
    assert found.attempt.startswith("local.")


def test_a_file_that_is_listed_and_gone_is_not_there(tmp_path, monkeypatch):
    """As on NFS, which remembers a folder's names for a while."""
    one = Rendezvous(tmp_path / "a")
    one.announce("preparing")
    listed = one._names()
    one.withdraw("preparing")
    monkeypatch.setattr(one, "_names", lambda: listed)
    assert one.read("preparing") is None


def test_waiting_changes_the_folders_and_leaves_nothing_there(tmp_path):
    """A change of ours makes NFS list them anew; find_live must not take its file for an attempt."""
    directory = SweepDirectory(tmp_path)
    one = Rendezvous(directory.attempt("7.0.ab"))
    for folder in (one.folder, directory.attempts):
        os.utime(folder, (0, 0))
    one.refresh()
    assert all(folder.stat().st_mtime > 0 for folder in (one.folder, directory.attempts))
    assert list(one.folder.iterdir()) == []
    (directory.attempts / ".node1.77").touch()
    (directory.attempts / "7.0.file").touch()
    assert directory.attempt_folders() == [one.folder]
    assert find_live(directory) is None
    one.announce("head", started=1.0)
    assert find_live(directory, "7.").folder == one.folder
    assert find_live(directory, "8.") is None


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
