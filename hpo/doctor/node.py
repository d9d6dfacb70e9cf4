"""What a host of a job says of itself: started by srun, one task a host, by hpo.doctor.jobs.

    python -m hpo.doctor.node FOLDER      # writes FOLDER/host-RANK.json; with several hosts they try to reach rank 0,
                                          # by each interface that both have

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
from hpo.doctor.places import find_interfaces, find_places
from hpo.errors import ClusterError
from hpo.layout import write_json

_REACH_S = 30.0  # for the other hosts, which may have started later
_TRY_S = 3.0  # for one connection
_DONE = b"!"  # the last word of a host


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
        "interfaces": find_interfaces(),
        "places": find_places(),
    }
    try:
        said["address"] = own_address()
        said["interface"] = next((n for n, one in said["interfaces"].items() if one["address"] == said["address"]), "")
        temp = TempDirectory(allocation.attempt)
        said["temp"] = str(temp.path.parent)
        temp.remove()
    except ClusterError as error:
        said["error"] = str(error)
    if allocation.nodes > 1 and "address" in said:
        said |= _listen(folder, said, allocation.nodes - 1) if allocation.rank == 0 else _reach(folder, said)
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


def _listen(folder: Path, said: dict[str, Any], others: int) -> dict[str, Any]:
    """Rank 0 listens at all its addresses until the others are done: how many of them came."""
    met, end = 0, time.monotonic() + _REACH_S
    with socket.create_server(("0.0.0.0", 0)) as server:
        where = {name: one["address"] for name, one in said["interfaces"].items()}
        write_json(folder / "listen.json", {"port": server.getsockname()[1], "own": said["address"], "ways": where})
        while met < others and time.monotonic() < end:
            server.settimeout(max(0.1, end - time.monotonic()))
            try:
                connection = server.accept()[0]
                with connection:
                    connection.settimeout(_TRY_S)
                    met += connection.recv(1) == _DONE
            except OSError:
                continue
    return {"met": met}


def _reach(folder: Path, said: dict[str, Any]) -> dict[str, Any]:
    """The others connect to rank 0, where it says that it is and by each interface of a name that both have."""
    end, where = time.monotonic() + _REACH_S, None
    while where is None:
        try:
            where = json.loads((folder / "listen.json").read_text())
        except (OSError, ValueError):
            if time.monotonic() > end:
                return {"unreached": "rank 0 said nothing", "ways": []}
            time.sleep(0.2)
    port = where["port"]
    ways = [name for name, address in where["ways"].items() if name in said["interfaces"] and not _try(address, port)]
    if where["own"].startswith("127."):
        trouble = "a loopback address"
    else:
        trouble = _try(where["own"], port, _DONE)
    if trouble and ways:
        _try(where["ways"][ways[0]], port, _DONE)
    return {"ways": ways, **({"unreached": trouble} if trouble else {"reached": where["own"]})}


def _try(address: str, port: int, word: bytes = b"?") -> str:
    """Why rank 0 was not reached there; '' when it was."""
    try:
        with socket.create_connection((address, port), timeout=_TRY_S) as connection:
            connection.sendall(word)
    except OSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
