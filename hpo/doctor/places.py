"""What a host has of its own: network interfaces, and directories for large files. Looked at inside a job."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from hpo.cluster.rendezvous import interface_address
from hpo.data.storage import MEMORY, USUAL_VARIABLES, filesystem_of, free_bytes, is_shared
from hpo.errors import ClusterError

_INFINIBAND = "32"  # ARPHRD_INFINIBAND in linux/if_arp.h
_FAST = ("ib", "hsn", "opa")  # InfiniBand, HPE Slingshot, Omni-Path, as drivers name them
_USUAL = ("/local/scratch", "/localscratch", "/local_scratch", "/lscratch", "/scratch/local", "/local", "/scratch",
          "/nvme", "/raid", "/tmp")  # fmt: skip
_OF_THE_SYSTEM = {"boot", "dev", "etc", "home", "nix", "opt", "proc", "root", "run", "snap", "srv", "sys", "usr", "var"}
_LEAST_BYTES = 10**9


def find_interfaces() -> dict[str, dict[str, Any]]:
    """Interfaces that are up and have an IPv4 address, without the loopback: name -> its address, and whether it is of
    a network made for clusters."""
    found: dict[str, dict[str, Any]] = {}
    for _, name in socket.if_nameindex():
        about = Path("/sys/class/net") / name
        try:
            address = interface_address(name)
        except ClusterError:
            continue
        if not address.startswith("127.") and _read(about / "operstate") in ("up", "unknown", ""):
            found[name] = {
                "address": address,
                "fast": name.startswith(_FAST) or _read(about / "type") == _INFINIBAND,
            }
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def find_places() -> dict[str, int]:
    """Directories for large files on a disk of this host: as a site file has them -> bytes free. Those that the site
    makes for each job first, then the roomiest."""
    of_job = {f"${name}": Path(os.environ[name]) for name in USUAL_VARIABLES if os.environ.get(name)}
    named = {**{str(path): path for path in [*map(Path, _USUAL), *_mounted()]}, **of_job}  # $TMPDIR may just be /tmp
    found: dict[str, int] = {}
    seen: set[Path] = set()
    for word, path in named.items():
        place = path.resolve()
        inside_one = any(place.is_relative_to(known) for known in seen) and not word.startswith("$")
        if place in seen or inside_one or not _is_fit(path):
            continue
        seen.add(place)
        found[word] = free_bytes(path)
    return dict(sorted(found.items(), key=lambda pair: (not pair[0].startswith("$"), -pair[1])))


def _is_fit(path: Path) -> bool:
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return False
    return not is_shared(path) and filesystem_of(path) not in MEMORY and free_bytes(path) >= _LEAST_BYTES


def _mounted() -> list[Path]:
    """Disks of their own, such as /raid0."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    places = [Path(line.split()[4]) for line in lines if line.partition(" - ")[2].split()[1].startswith("/dev/")]
    return [path for path in places if 2 <= len(path.parts) <= 3 and path.parts[1] not in _OF_THE_SYSTEM]
