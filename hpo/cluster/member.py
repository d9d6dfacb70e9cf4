"""The rank processes of a trial on another node: a Ray actor has them there, and who speaks for them is here.

A trial over several nodes is one placement group with a bundle on each. Ray Tune's actor is in the first, starts the
ranks of its node and decides over all, as for a trial of one node (hpo.trial.group); an actor of this file is in
each other bundle and does what it is told. So journal, checkpoints, watchdog and classes of failure are the same for
any number of nodes, which they would not be with Ray Train's TorchTrainer, a Tune run of its own kind inside the trial.

What the processes are is not known here: whoever makes a member gives the call that makes them there. Messages go
through Ray, which asks for the sweep's token; between two messages to the ranks nobody asks for anything.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import ray
from ray.util import get_current_placement_group, get_node_ip_address, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpo.cluster.rendezvous import interface_address
from hpo.errors import ClusterError
from hpo.failures import classify, describe
from hpo.search.places import is_lost

_LISTEN_S = 1.0  # so long the actor waits for its ranks before it looks whether it is asked for something else
_ANSWER_S = 15.0  # for an actor to say that its ranks are there, or to have ended them


def find_interface(address: str) -> str:
    """The network interface of this host with IP `address`, or the one that GLOO_SOCKET_IFNAME names.

    Raises:
        ClusterError: the kernel tells of none, as when an interface has several addresses.
    """
    if chosen := os.environ.get("GLOO_SOCKET_IFNAME"):
        return chosen
    for _, name in socket.if_nameindex():
        with contextlib.suppress(ClusterError):
            if interface_address(name) == address:
                return name
    raise ClusterError(f"no network interface of {socket.gethostname()} has {address}; name it in GLOO_SOCKET_IFNAME.")


def own_interface() -> tuple[str, str]:
    """The address at which this Ray node is known to the others, and its interface."""
    address = str(get_node_ip_address())
    return address, find_interface(address)


class _Member:
    """The actor."""

    def __init__(self, create: Callable[[str], Any]) -> None:
        self._ranks = create(own_interface()[1])

    def start(self, first: int, world: int, log: Path) -> None:
        self._ranks.start(first, world, log)

    def alive(self) -> bool:
        return bool(self._ranks.alive)

    def send(self, messages: Sequence[Any]) -> None:
        self._ranks.send(messages)

    def receive(self, ranks: list[int]) -> list[tuple[int, Any]]:
        """What those of `ranks` say that say something soon."""
        ready = wait(self._ranks.sources(ranks), timeout=_LISTEN_S)
        return [self._ranks.receive(source) for source in ready]

    def abort(self) -> None:
        self._ranks.abort()


class Member:
    """`count` ranks on the node of bundle number `bundle` of this actor's placement group, as hpo.trial.group takes
    them. `create`: makes them there, told of the network interface."""

    def __init__(self, create: Callable[[str], Any], count: int, bundle: int) -> None:
        self.count, self._create, self._bundle = count, create, bundle
        self._actor: Any = None
        self._node = self._host = ""  # Ray's id of it, and its name
        self._asked: list[Any] = []  # what the actor was told since it was last listened to
        self._ours: Connection | None = None
        self._theirs: Connection | None = None

    @property
    def alive(self) -> bool:
        try:
            return self._actor is not None and bool(ray.get(self._actor.alive.remote(), timeout=_ANSWER_S))
        except ray.exceptions.RayError:
            return False

    def start(self, first: int, world: int, log: Path) -> None:
        self.end()
        group = get_current_placement_group()
        assert group is not None  # Ray Tune has placed us
        self._node = placement_group_table(group)["bundles_to_node_id"][self._bundle]  # once lost it has none
        self._host = next((one["NodeManagerHostname"] for one in ray.nodes() if one["NodeID"] == self._node), "?")
        has = group.bundle_specs[self._bundle]
        where = PlacementGroupSchedulingStrategy(group, self._bundle)
        options = {"num_cpus": has.get("CPU", 0), "num_gpus": has.get("GPU", 0), "scheduling_strategy": where}
        self._actor = ray.remote(_Member).options(**options).remote(self._create)
        self._ours, self._theirs = Pipe(duplex=False)
        self._asked = [self._actor.start.remote(first, world, log)]

    def send(self, messages: Sequence[Any]) -> None:
        self._asked.append(self._actor.send.remote(messages))
        about = (self._actor, self._asked, self._theirs)
        threading.Thread(target=self._listen, args=about, daemon=True).start()
        self._asked = []

    def _listen(self, actor: Any, asked: list[Any], theirs: Connection) -> None:
        """Until every rank has answered, or is lost."""
        waiting = set(range(self.count))
        with contextlib.suppress(OSError):  # at our end nobody listens any more
            try:
                ray.get(asked)
                while waiting:
                    for rank, answer in ray.get(actor.receive.remote(sorted(waiting))):
                        theirs.send((rank, answer))
                        if "progress" not in answer:
                            waiting.discard(rank)
            except ray.exceptions.RayError as error:
                failure = self._explain(error)
                for rank in waiting:
                    theirs.send((rank, failure))

    def _explain(self, error: ray.exceptions.RayError) -> dict[str, Any]:
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
            failure = {"kind": classify(error.cause), "cause": describe(error.cause), "because": False}
            return {"failure": failure}
        lost = self.find_loss()
        words = f"the process that starts ranks on {self._host} ended without a word"
        return lost or {"failure": {"kind": "killed", "cause": words, "because": False}}

    def sources(self, ranks: Collection[int]) -> list[Connection]:
        return [self._ours] if ranks and self._ours else []

    def receive(self, source: Connection) -> tuple[int, dict[str, Any]]:
        rank, answer = source.recv()
        return rank, answer

    def find_loss(self) -> dict[str, Any] | None:
        if not self._node or not is_lost(self._node):
            return None
        return {"failure": {"kind": "host", "cause": f"{self._host} was lost", "because": False}}

    def abort(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._actor.abort.remote(), timeout=_ANSWER_S)

    def end(self) -> None:
        """The ranks end with the actor, their parent."""
        if self._actor is not None:
            ray.kill(self._actor)
        for connection in (self._ours, self._theirs):
            if connection:
                connection.close()
        self._actor = self._ours = self._theirs = None
