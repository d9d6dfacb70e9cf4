"""What a host of a job says of itself: started by srun, one task a host, by hpo.doctor.jobs.

    python -m hpo.doctor.node FOLDER      # writes FOLDER/host-RANK.json; with several hosts they try to reach rank 0

Imports neither Ray nor torch, so that it answers in seconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hpo.cluster.allocation import find_allocation
from hpo.cluster.rendezvous import own_address
from hpo.cluster.tempdir import TempDirectory
from hpo.data.storage import local_directories
from hpo.errors import ClusterError
from hpo.layout import write_json

_REACH_S = 30.0  # for the other hosts, which may have started later


def main(folder: Path) -> None:
    allocation = find_allocation()
    shm = os.statvfs("/dev/shm")
    said: dict[str, Any] = {
        "host": allocation.hostname,
        "rank": allocation.rank,
        "python": sys.executable,
        "cpus": allocation.cpus,
        "gpus": allocation.gpus,
        "memory_mb": allocation.memory_mb,
        "cuda": cuda_devices(),
        "shm_bytes": shm.f_bavail * shm.f_frsize,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "local": [str(path) for path in local_directories()],
    }
    try:
        said["address"] = own_address()
        temp = TempDirectory(allocation.attempt)
        said["temp"] = str(temp.path.parent)
        temp.remove()
    except ClusterError as error:
        said["error"] = str(error)
    if allocation.nodes > 1 and not said.get("address", "127.").startswith("127."):
        said |= _meet(folder, allocation.rank, said["address"], allocation.nodes)
    write_json(folder / f"host-{allocation.rank}.json", said)


def cuda_devices() -> int | None:
    """GPUs that the driver shows; None where there is no driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _meet(folder: Path, rank: int, address: str, hosts: int) -> dict[str, Any]:
    """Rank 0 listens where it says; the others connect to it. Whether that went well."""
    if rank == 0:
        return {"met": _listen(folder, address, hosts - 1)}
    end, said = time.monotonic() + _REACH_S, "rank 0 said nothing"
    while time.monotonic() < end:
        try:
            where = json.loads((folder / "listen.json").read_text())
            with socket.create_connection((where["address"], where["port"]), timeout=2):
                return {"reached": where["address"]}
        except (OSError, ValueError) as error:
            said = str(error)
            time.sleep(0.2)
    return {"unreached": said}


def _listen(folder: Path, address: str, others: int) -> int:
    """How many of the others came."""
    met, end = 0, time.monotonic() + _REACH_S
    with socket.create_server(("0.0.0.0", 0)) as server:
        write_json(folder / "listen.json", {"address": address, "port": server.getsockname()[1]})
        while met < others and time.monotonic() < end:
            server.settimeout(max(0.1, end - time.monotonic()))
            try:
                server.accept()[0].close()
                met += 1
            except OSError:
                continue
    return met


if __name__ == "__main__":
    main(Path(sys.argv[1]))
