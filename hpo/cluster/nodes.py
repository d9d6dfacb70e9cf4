"""Which workers Ray has, as events of the journal: who joined, who left, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from hpo.cluster.rendezvous import Rendezvous

_IDLE_TERMINATION, _DRAIN_S = 1, 5.0  # DrainNodeReason; seconds for the answer
_DEATHS = {1: "it ended in order", 3: "it was preempted", 4: "it was released"}  # Ray's NodeDeathInfo.Reason


def drain_if_idle(node: str) -> bool:
    """Takes the node with this id of Ray's out of service if nothing runs on it; Ray decides, so no trial can slip in.

    By the call that Ray's own autoscaler uses; a Ray without it releases no workers before the end.
    """
    from ray._private.worker import global_worker

    try:
        worker: Any = global_worker
        idle = worker.gcs_client.drain_node(node, _IDLE_TERMINATION, "needed no more", 0, timeout=_DRAIN_S)
    except (AttributeError, TypeError):
        return False
    return bool(idle[0])


class NodeWatch:
    """Compares Ray's table of nodes with what was seen before. `note` writes an event: note(type, **fields)."""

    def __init__(self, rendezvous: Rendezvous, note: Callable[..., None]) -> None:
        self._rendezvous, self._note = rendezvous, note
        self._joined: dict[str, dict[str, Any]] = {}  # Ray's id of the node -> what its worker said of itself

    def look(self) -> None:
        """Writes down who has come and gone since the last look."""
        for node in ray.nodes():
            known = self._joined.get(node["NodeID"])
            if node["Alive"] and known is None:
                self._join(node)
            elif not node["Alive"] and known is not None:
                del self._joined[node["NodeID"]]
                reason = _DEATHS.get(node.get("DeathReason", 0), "it was lost")
                self._note("worker_left", worker=known["worker"], host=known["host"], reason=reason)

    def _join(self, node: dict[str, Any]) -> None:
        about = self._rendezvous.read(f"worker-{node['NodeName']}")
        if about is None:  # a pool's head is none, and a worker's file may come a moment later than the worker
            if node["Resources"].get("CPU"):
                self._rendezvous.refresh()
            return
        self._joined[node["NodeID"]] = about
        self._note("worker_joined", **about)

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """By Ray's id of the node, as of the last look."""
        return dict(self._joined)
