"""One host's part of the Ray cluster: ports, temp directory, environment and the `ray start` of head or worker.

Many jobs and many people share a host, so nothing is left to Ray's defaults: all ports lie in a slot that was tested
to be free, the temp directory is short (a socket path has 107 bytes) and below a 0700 parent (Ray makes its own
0777), every process carries the sweep's token, and `ray stop`, which ends other people's Ray as well, is never used.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpo.cluster.allocation import Allocation
from hpo.cluster.processes import find_processes
from hpo.data.nodecopy import SUPERVISED_VARIABLE
from hpo.data.storage import LOCAL_DIRS_VARIABLE
from hpo.errors import ClusterError

_ROOT = Path(__file__).resolve().parents[2]
_SLOT_SIZE, _FIRST_PORT = 256, 20000
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
_LONGEST_TEMP = 43  # bytes; Ray adds 64 below it
_OBJECT_STORE_BYTES = 200 * 2**20  # trials read files, they do not pass objects


@dataclass(frozen=True)
class RayNode:
    """What `ray start` on this host is told."""

    allocation: Allocation
    temp: Path
    slot: int
    address: str  # this host's IP as the others reach it

    @property
    def gcs(self) -> str:
        return f"{self.address}:{self.slot}"

    def command(self, head: str | None = None) -> list[str]:
        """The command line: a head, or a worker that joins `head` (ip:port)."""
        ports = {name: self.slot + i for i, name in enumerate(_PORTS)}
        if head:
            del ports["port"], ports["dashboard-port"]
            role = [f"--address={head}"]
        else:
            role = ["--head", "--include-dashboard=false", "--dashboard-host=127.0.0.1"]
        memory = [f"--memory={self.allocation.memory_mb * 2**20}"] if self.allocation.memory_mb else []
        return [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *role,
            f"--node-name={self.allocation.worker}",
            f"--node-ip-address={self.address}",
            *(f"--{name}={port}" for name, port in ports.items()),
            f"--min-worker-port={self.slot + _FIXED_PORTS}",
            f"--max-worker-port={self.slot + _SLOT_SIZE - 1}",
            f"--num-cpus={self.allocation.cpus}",
            f"--num-gpus={self.allocation.gpus}",
            *memory,
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            f"--temp-dir={self.temp}",
        ]


def prepare_node(allocation: Allocation, address: str, attempt: int = 0) -> RayNode:
    """Temp directory and port slot for this host; `attempt` counts tries after a lost race for the ports.

    Raises:
        ClusterError: no slot is free, or the temp directory cannot be made safely.
    """
    return RayNode(allocation, _make_temp(allocation.attempt), _free_slot(allocation.attempt, attempt), address)


def remove_temp(node: RayNode) -> None:
    shutil.rmtree(node.temp, ignore_errors=True)


def remove_abandoned(node: RayNode, jobs: set[str], attempts: set[str]) -> None:
    """Removes the temp directories that earlier attempts and jobs of the same sweep left on this host when they were
    killed."""
    for temp in node.temp.parent.iterdir():
        ours = temp.name in attempts or temp.name.partition(".")[0] in jobs
        if ours and temp != node.temp and temp.is_dir() and not find_processes(str(temp)):
            shutil.rmtree(temp, ignore_errors=True)


def ray_environment(token: Path, node: RayNode, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of every process that speaks to this sweep's Ray."""
    kept = {key: value for key, value in environ.items() if not key.startswith(("RAY_", "PMI", "OMPI_"))}
    proxies = ",".join(filter(None, [kept.get("no_proxy", ""), node.address, "127.0.0.1", "localhost"]))
    return {
        **kept,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),  # by path: a token in the environment shows in /proc and in dumps
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(node.temp),
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
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
        SUPERVISED_VARIABLE: "1",  # the supervisor removes the node's copies of data
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "no_proxy": proxies,
        "NO_PROXY": proxies,
    }


def _make_temp(attempt: str) -> Path:
    """A node-local directory for Ray, below one that only we can enter."""
    local = os.environ.get(LOCAL_DIRS_VARIABLE, "").split(os.pathsep)
    for base in filter(None, (*local, os.environ.get("SLURM_TMPDIR"), os.environ.get("TMPDIR"), "/tmp")):
        parent = Path(base).expanduser() / f"r{os.getuid()}"
        temp = parent / attempt
        if len(bytes(temp)) <= _LONGEST_TEMP and parent.parent.is_dir():
            break
    else:
        raise ClusterError(
            f"{temp} is longer than the {_LONGEST_TEMP} bytes that Ray's sockets leave; set TMPDIR to a shorter path."
        )
    parent.mkdir(mode=0o700, exist_ok=True)
    status = parent.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ClusterError(
            f"{parent} is not a directory of ours with mode 0700; remove it, or set TMPDIR to another place."
        )
    temp.mkdir(mode=0o700, exist_ok=True)
    return temp


def _free_slot(attempt: str, tries: int) -> int:
    """The first port of a block in which every fixed port could be bound just now, below the kernel's own range."""
    floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = _FIRST_PORT if floor > _FIRST_PORT + 4 * _SLOT_SIZE else 1024
    slots = (min(floor, 65536) - first) // _SLOT_SIZE
    start = sum(attempt.encode()) * 7919 + tries
    for i in range(slots):
        slot = first + (start + i) % slots * _SLOT_SIZE
        if all(_bindable(slot + port) for port in range(_FIXED_PORTS)):
            return slot
    raise ClusterError(
        f"no block of {_SLOT_SIZE} free ports between {first} and {floor} on {socket.gethostname()}; "
        "too many jobs share it, ask for another host."
    )


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True
