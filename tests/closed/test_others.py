"""What another user of the host, and the rest of the world, have of a sweep: nothing.

The tests of the first sweep come in order; the last of them ends it.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import cage as cages
import pytest

from hpo.cluster.ports import SLOT_SIZE

pytestmark = pytest.mark.ray
KNOCKS = cages.ROOT / "tests" / "closed" / "knocks.py"
REFUSED = ("UNAUTHENTICATED", "UNIMPLEMENTED", "HTTP 401", "HTTP 403", "no HTTP (BadStatusLine", "no gRPC")
PUBLIC = ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")


def listening(cage, alice):
    """{port: (address, name of the process)} of all TCP sockets inside that listen."""
    with alice.standing_still():
        return _listening(cage)


def _listening(cage):
    found = {}
    owners = {}
    for pid in cage.processes():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:"):
                owners.setdefault(target[8:-1], Path(f"/proc/{pid}/comm").read_text().strip())
    init = cage.processes()[0]
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{init}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, _, port = fields[1].rpartition(":")
                found[int(port, 16)] = (address, owners.get(fields[9], "nobody"))
    return found


def test_ray_listens_on_loopback_alone_in_ports_of_its_own(cage, at_work, alice, measure):
    found = listening(cage, alice)
    loopback = ("0100007F", "0000000000000000FFFF00000100007F")
    assert all(address in loopback for address, _ in found.values()), found
    assert {name for _, name in found.values()} >= {"gcs_server", "raylet"}
    assert "nobody" not in {name for _, name in found.values()}
    assert max(found) - min(found) < SLOT_SIZE
    measure(ports={port: name for port, (_, name) in found.items()})


def test_datagrams_and_sockets_without_a_path_are_not_there(cage, at_work):
    """Those of the kernel's abstract names can be entered by everybody on the host."""
    inside = cage.processes()[0]
    assert len(Path(f"/proc/{inside}/net/udp").read_text().splitlines()) == 1
    names = [line.split()[7] for line in Path(f"/proc/{inside}/net/unix").read_text().splitlines()[1:]
             if len(line.split()) > 7]  # fmt: skip
    assert names  # Ray's own
    assert all(name.startswith("/tmp/r60001/") for name in names), names


def test_no_port_answers_who_has_no_token(cage, at_work, alice, bob, measure):
    ports = sorted(listening(cage, alice))
    answers = cage.run("bob", sys.executable, KNOCKS, *ports, timeout=600).splitlines()
    *knocks, counts = map(json.loads, answers)
    useful = [k for k in knocks if not k["answer"].startswith(REFUSED) and k["what"] not in PUBLIC]
    assert useful == []
    assert {k["port"] for k in knocks} == set(ports)
    token = alice.home("run/secrets/ray_token").read_text()
    *with_token, _ = map(json.loads, cage.run("alice", sys.executable, KNOCKS, "--token", token, *ports).splitlines())
    heard = {k["what"] for k in with_token if k["answer"].startswith(("answered", "HTTP 200"))}
    assert {"/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "POST /get_runtime_envs_info"} <= heard, with_token
    measure(counts=counts, names={port: name for port, (_, name) in listening(cage, alice).items()})


def test_another_user_can_read_nothing(cage, at_work, alice):
    for path in ("/tmp/alice/run", "/tmp/alice/run/secrets/ray_token", "/tmp/r60001"):
        refused = subprocess.run(cage.command("bob", "cat", path), capture_output=True, text=True, check=False)
        assert "Permission denied" in refused.stderr
    for pid in alice.pids():
        refused = subprocess.run(cage.command("bob", "cat", f"/proc/{pid}/environ"), capture_output=True, check=False)
        assert refused.returncode
    modes = {
        name: stat.S_IMODE(alice.home(name).stat().st_mode)
        for name in ("run", "run/secrets", "run/secrets/ray_token", "run/attempts", "run/trials", "run/submitit")
    }
    assert modes.pop("run/secrets/ray_token") == 0o600
    assert set(modes.values()) == {0o700}
    temp = next(cage.path("/tmp/r60001").iterdir())
    assert stat.S_IMODE(temp.parent.stat().st_mode) == 0o700
    with alice.standing_still():  # at work it removes files between their listing and a look at them
        owners = {path.lstat().st_uid for path in [*alice.home("run").rglob("*"), *temp.rglob("*")]}
    assert owners == {cages.USERS["alice"]}


def test_the_token_is_in_its_file_alone(cage, at_work, alice):
    token = alice.home("run/secrets/ray_token").read_bytes()
    with alice.standing_still():
        for pid in alice.pids():
            for about in ("cmdline", "environ"):
                assert token not in Path(f"/proc/{pid}/{about}").read_bytes()
        files = [path for place in ("/tmp", "/dev/shm") for path in cage.path(place).rglob("*")
                 if path.is_file() and not path.is_symlink()]  # fmt: skip
        assert any("/logs/" in str(path) for path in files)
        assert [path.name for path in files if token in path.read_bytes()] == ["ray_token"]


def test_who_has_the_token_dumps_no_core(at_work, alice):
    for pid in alice.pids("gcs_server", "raylet", "ray::", "hpo.cluster.driver"):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        soft = next(line for line in limits if line.startswith("Max core file size")).split()[4]
        assert int(soft) <= 1


def test_nothing_is_left_after_ctrl_c_and_nobody_was_called(cage, at_work, alice, measure):
    assert cage.packets_out() == 0  # no usage report, no cloud's metadata service, no name server
    alice.kill(signal.SIGINT, "launch/submit.py")
    assert at_work.wait(300) == 130
    measure(end="Ctrl-C", seconds=round(cage.wait_until_clean(), 2))
    cage.run("bob", sys.executable, "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9))")
    assert cage.packets_out() == 1  # they would have been seen


ENDS = {
    "submit.py": ("launch/submit.py",),
    "supervisor": ("submitit.core._submit",),
    "all but the janitor": ("submit", "hpo.cluster.driver", "ray", "gcs_server"),
    "everything": (),
}


@pytest.mark.parametrize(
    "what",
    ["supervisor", *(pytest.param(end, marks=pytest.mark.faults) for end in ENDS if end != "supervisor")],
)
def test_nothing_is_left_of_a_sweep_that_is_killed(cage, alice, what, measure):
    run = cages.new_name("killed")
    process = alice.begin(run)
    alice.wait_for_epochs(run)
    keep = set(alice.pids("hpo.cluster.janitor")) if what != "everything" else set()
    assert len(keep) == (what != "everything")
    for pid in set(alice.pids(*ENDS[what])) - keep:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if what == "everything":  # nobody is left to remove files: the next sweep of the same user does
        seconds = cage.wait_until_clean(files=False)
        assert cage.files()
        cage.run("alice", sys.executable, "-c",
                 "from hpo.cluster.tempdir import TempDirectory as T; t = T('x'); t.remove_abandoned(); t.remove()",
                 environ={"PYTHONPATH": str(cages.ROOT)})  # fmt: skip
        assert cage.files() == set()
    else:
        seconds = cage.wait_until_clean()
    process.wait(300)
    measure(end=what, seconds=round(seconds, 2))


def pair(cage, alice, bob, name):
    """Both submit at the same moment; their states at the end."""
    users = (alice, bob)
    more = ("--cluster", "local", "--set", "num_trials=1")  # nearly all of the time goes into starting processes
    runs = [user.submit(user.sweep, *more, "--run-dir", f"/tmp/{user.name}/{name}") for user in users]
    codes = [run.wait(1200) for run in runs]
    assert codes == [0, 0], [user.home("out.log").read_text()[-2000:] for user in users]
    return [user.state(name) for user in users]


def test_two_users_at_once(cage, alice, bob, measure):
    for state in pair(cage, alice, bob, "pair"):
        assert state.ended
        assert len(state.attempts) == 1
        assert all(trial.finished for trial in state.trials.values())
    measure(end="finished", seconds=round(cage.wait_until_clean(), 2))


@pytest.mark.faults
@pytest.mark.parametrize("number", range(20))
def test_two_users_at_once_time_and_again(cage, alice, bob, number, measure):
    states = pair(cage, alice, bob, f"pair-{number}")
    seconds = cage.wait_until_clean()
    measure(pair=number, finished=[bool(state.ended) for state in states], seconds=round(seconds, 2),
            attempts=[len(state.attempts) for state in states])  # fmt: skip
    assert all(state.ended for state in states)
