"""A block of ports of our own on a host that many people share.

Standard library only. The kernel hands out a port to one process at a time, whoever owns it: a block is ours while we
hold its last port, which is bound, never listened on, and freed by the kernel when we end, however we end.
"""

from __future__ import annotations

import os
import socket
import zlib
from contextlib import suppress
from pathlib import Path

from hpo.errors import ClusterError

SLOT_SIZE = 256
_FIRST, _LOWEST = 20000, 1024
_LISTEN = "0A"  # in /proc/net/tcp


class PortSlot:
    """`first` and the ports up to `last`, until close()."""

    def __init__(self, first: int, held: socket.socket) -> None:
        self.first, self._held = first, held

    @property
    def last(self) -> int:
        """The last that may be used."""
        return self.first + SLOT_SIZE - 2

    def close(self) -> None:
        self._held.close()


def find_slot(attempt: str, tries: int, needed: int) -> PortSlot:
    """A block that nobody holds, and whose first `needed` ports could be bound just now: below the range from which the
    kernel takes ports for connections or, where that leaves no room, in it.

    `tries` counts earlier blocks, which perhaps were lost to somebody who does not know of our blocks.

    Raises:
        ClusterError: there is none.
    """
    lowest, highest = _bounds()
    slots = (highest - lowest) // SLOT_SIZE
    start = zlib.crc32(attempt.encode()) + tries
    for i in range(slots):
        first = lowest + (start + i) % slots * SLOT_SIZE
        if held := _bind(first + SLOT_SIZE - 1):
            probes = [_bind(first + port) for port in range(needed)]
            for probe in filter(None, probes):
                probe.close()
            if all(probes):
                return PortSlot(first, held)
            held.close()
    raise ClusterError(
        f"no block of {SLOT_SIZE} free ports between {lowest} and {highest} on {socket.gethostname()}; "
        "too many jobs share it, ask for another host."
    )


def _bounds() -> tuple[int, int]:
    floor, room = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]), 4 * SLOT_SIZE
    if floor >= _FIRST + room:
        return _FIRST, floor
    return (_LOWEST, floor) if floor >= _LOWEST + room else (_FIRST, 65536)


def _bind(port: int) -> socket.socket | None:
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.bind(("0.0.0.0", port))
    except OSError:
        probe.close()
        return None
    return probe


def is_ours(port: int) -> bool:
    """Whether who listens on `port` of this host is this person: the first to connect there says the sweep's token."""
    found = False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, uid, *_ = line.split()
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                    if int(uid) != os.getuid():
                        return False
                    found = True
    return found or not Path("/proc/net/tcp").exists()
