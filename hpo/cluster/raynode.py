"""One host's part of the Ray cluster: environment and the `ray start` of head or worker.

Many jobs and many people share a host, so nothing is left to Ray's defaults: ports (hpo.cluster.ports), temp directory
(hpo.cluster.tempdir), the token that every process carries, the processes that no trial needs. And `ray stop`, which
ends other people's Ray as well, is never used.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpo.cluster.allocation import Allocation
from hpo.cluster.commands import OUTSIDE
from hpo.cluster.ports import PortSlot, find_slot
from hpo.cluster.rayhook import HOOK, NOWHERE
from hpo.cluster.rendezvous import LOOPBACK
from hpo.data.nodecopy import SUPERVISED_VARIABLE
from hpo.data.storage import LOCAL_DIRS_VARIABLE, local_directories

_ROOT = Path(__file__).resolve().parents[2]
_PORTS = (
    "port",  # the GCS's, of a head only
    "dashboard-port",  # likewise
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
_FIXED_PORTS = len(_PORTS)  # of a slot; its upper part is for worker processes
START = (sys.executable, "-m", "ray.scripts.scripts", "start")
GCS_SILENCE_S = 20  # a worker's Ray gives its head up after so long
_OBJECT_STORE_BYTES = 200 * 2**20  # trials read files, they do not pass objects


@dataclass(frozen=True)
class RayNode:
    """What `ray start` on this host is told."""

    allocation: Allocation
    temp: Path
    slot: PortSlot
    address: str  # this host's IP as the others reach it

    @property
    def gcs(self) -> str:
        return f"{self.address}:{self.slot.first}"

    def arguments(self, head: str | None = None) -> list[str]:
        """Of START: for a head, or a worker that joins `head` (ip:port)."""
        ports = {name: self.slot.first + i for i, name in enumerate(_PORTS)}
        if head:
            del ports["port"], ports["dashboard-port"]
            role = [f"--address={head}"]
        else:
            role = ["--head", "--include-dashboard=false", "--dashboard-host=127.0.0.1", "--no-monitor"]
        memory = [f"--memory={self.allocation.memory_mb * 2**20}"] if self.allocation.memory_mb else []
        return [
            *("--block", "--disable-usage-stats"),
            *role,
            "--include-log-monitor=false",  # nobody reads trials' output through the driver
            f"--node-name={self.allocation.worker}",
            f"--node-ip-address={self.address}",
            *(f"--{name}={port}" for name, port in ports.items()),
            f"--min-worker-port={self.slot.first + _FIXED_PORTS}",
            f"--max-worker-port={self.slot.last}",
            f"--num-cpus={self.allocation.cpus}",
            f"--num-gpus={self.allocation.gpus}",
            *memory,
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={self.temp}",
        ]


def prepare_node(allocation: Allocation, temp: Path, address: str, tries: int = 0) -> RayNode:
    """A block of ports for this host; `tries` counts those before it, after a lost race.

    Raises:
        ClusterError: none is free.
    """
    return RayNode(allocation, temp, find_slot(allocation.attempt, tries, _FIXED_PORTS), address)


def ray_environment(token: Path, temp: Path, address: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of every process that speaks to this sweep's Ray; `address`: this host's IP."""
    kept = {key: value for key, value in environ.items() if not key.startswith(("RAY_", "PMI", "OMPI_"))}
    proxies = ",".join(filter(None, [kept.get("no_proxy", ""), address, "127.0.0.1", "localhost"]))
    ours = {
        "TMPDIR": str(temp),  # libraries leave files when their process is killed
        LOCAL_DIRS_VARIABLE: os.pathsep.join(map(str, local_directories())),  # not below that
        SUPERVISED_VARIABLE: "1",  # the supervisor removes the node's copies of data
        "no_proxy": proxies,
        "NO_PROXY": proxies,
    }
    return {
        **kept,
        **ours,
        OUTSIDE: json.dumps({name: environ.get(name) for name in ours}),  # for jobs that a pool's driver submits
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),  # by path: a token in the environment shows in /proc and in dumps
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_USAGE_STATS_REPORT_URL": NOWHERE,
        "RAY_enable_metrics_collection": "0",  # else, with ray[default], a port tells them to everybody
        "RAY_START_HOOK": HOOK,
        # the name tells of other systems: at 0, Ray leaves 127.0.0.1 as it is, and listens there alone
        **({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address == LOOPBACK else {}),
        "RAY_TMPDIR": str(temp),
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(GCS_SILENCE_S),
        # a host that does not answer is lost after 35 s, not after Ray's 65
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "5000",
        # a process that imports torch from a busy or cold file system needs longer than Ray's 60 s
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_num_workers_soft_limit": "0",  # no idle Python is started ahead: each costs a second of CPU
        "RAY_enable_worker_prestart": "0",
        "RAY_worker_niceness": "0",  # Ray's 15 leaves a trial nearly nothing beside a neighbour that computes
        "RAY_DEDUP_LOGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter is silent when it is told to be
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
    }
