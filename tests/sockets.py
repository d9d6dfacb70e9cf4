"""Who listens where, as the kernel tells it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path


def listening_addresses(pids):
    """The IPv4 and IPv6 addresses at which these processes listen for TCP connections, in their own network."""
    found = set()
    for pid in pids:
        process = Path("/proc") / str(pid)
        inodes = {
            str(path.readlink()).removeprefix("socket:[").removesuffix("]") for path in (process / "fd").iterdir()
        }
        for table in ("tcp", "tcp6"):
            for line in (process / "net" / table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = fields = line.split()
                if state == "0A" and fields[9] in inodes:
                    found.add(_readable(local.partition(":")[0]))
    return found


def _readable(word):
    packed = b"".join(struct.pack("<I", int(word[start : start + 8], 16)) for start in range(0, len(word), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
