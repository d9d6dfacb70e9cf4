"""What rank 0 makes of the ends of its children, and when it begins to drain."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import replace

import pytest

from hpo.cluster import head
from hpo.cluster.allocation import Allocation
from hpo.cluster.head import HeadSupervisor
from hpo.cluster.ports import PortSlot
from hpo.cluster.processes import Child
from hpo.cluster.raynode import RayNode
from hpo.layout import SweepDirectory, write_json

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
CRASHED = 4


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """A rank 0 whose Ray answers at a port of this test's."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    monkeypatch.setattr(head, "_SETTLE_S", 0.5)
    directory = SweepDirectory(tmp_path)
    write_json(directory.resolved, {})
    here = Allocation(attempt="7.0.ab", job="7", rank=0, nodes=1, cpus=1, gpus=0, memory_mb=None, end_time=None)
    made = HeadSupervisor(directory, here)
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        made.listening = gcs
        made._node = RayNode(here, tmp_path, PortSlot(gcs.getsockname()[1], gcs), "127.0.0.1")
        yield made
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def child(tmp_path):
    """child(command of a shell) -> it, running."""
    with (tmp_path / "log").open("ab") as log:
        children = []

        def start(command):
            children.append(Child("x", ["sh", "-c", command], os.environ, log, ignore_usr=True))
            return children[-1]

        yield start
        for one in children:
            one.end(0.1)


@pytest.mark.parametrize("code", [1, 75])
def test_a_driver_that_sees_the_loss_of_ray_first_is_followed_by_another(supervisor, child, code):
    supervisor.listening.close()  # `ray start` has not yet seen that its GCS has died
    assert supervisor._watch(child(f"exit {code}"), child("sleep 60")) == CRASHED


@pytest.mark.parametrize("code", [1, 6, 75])
def test_a_driver_that_fails_though_ray_is_well_says_how_the_attempt_ended(supervisor, child, code):
    assert supervisor._watch(child(f"exit {code}"), child("sleep 60")) == code


def test_what_else_ends_it(supervisor, child):
    assert supervisor._watch(child("exit 0"), child("exit 1")) == 0
    assert supervisor._watch(child("exit 3"), child("sleep 0.2")) == CRASHED
    assert supervisor._watch(child("kill -9 $$"), child("sleep 60")) == CRASHED
    assert supervisor._watch(child("sleep 60"), child("exit 1")) == CRASHED
    supervisor.asked = "SIGTERM"
    assert supervisor._watch(child("exec sleep 60"), child("sleep 60")) == 75


@pytest.mark.parametrize(("minutes", "lead"), [(60, 60), (4, 60), (2, 30)])
def test_draining_begins_on_our_own_clock(supervisor, minutes, lead):
    now = time.time()
    for left, near in ((lead - 5, True), (lead + 5, False)):
        supervisor.started = now + left - 60 * minutes
        supervisor.allocation = replace(supervisor.allocation, end_time=now + left)
        assert supervisor._walltime_near() is near
