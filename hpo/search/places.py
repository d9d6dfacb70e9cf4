"""Where each trial runs, so that the loss of a host can be told from the death of a process."""

from __future__ import annotations

import socket
import time
from typing import Any

import ray
from ray._private import state as ray_state
from ray.tune.experiment import Trial as TuneTrial

_ANSWER_DEADLINE_S = 3.0


class Places:
    """The Ray node of each trial by the trial's name."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[str, str]] = {}  # trial -> Ray's id of the node, and its host

    def note(self, name: str, trial: TuneTrial) -> str:
        """Remembers where a trial that has just been started runs; returns the host."""
        actor = trial.temporary_state.ray_actor
        place = ray_state.actors(actor._ray_actor_id.hex()).get("Address", {}) if actor else {}
        node = str(place.get("NodeID", ""))
        hosts = {one["NodeID"]: one["NodeManagerHostname"] for one in ray.nodes()}
        host = str(hosts.get(node, place.get("IPAddress", "")))
        self._nodes[name] = (node, host)
        return host

    def lost_host(self, name: str) -> str:
        """The host that the trial ran on, if Ray is gone there; '' when it is there, and the process alone was lost, or
        when the trial was never seen to run."""
        node, host = self._nodes.pop(name, ("", ""))
        return host if node and is_lost(node) else ""


def is_lost(node: str) -> bool:
    """Whether Ray is gone on the node with that id of Ray's.

    Ray itself takes up to 35 s to call a silent host dead, so its raylet is asked, twice: the processes of a dying
    host do not all go at the same moment.
    """
    for pause in (0.0, 1.0):
        time.sleep(pause)
        if not any(_answers(one) for one in ray.nodes() if one["NodeID"] == node):
            return True
    return False


def _answers(node: dict[str, Any]) -> bool:
    try:
        address = (node["NodeManagerAddress"], node["NodeManagerPort"])
        with socket.create_connection(address, _ANSWER_DEADLINE_S):
            return bool(node["Alive"])
    except OSError:
        return False
