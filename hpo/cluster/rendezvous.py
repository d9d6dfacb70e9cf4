"""How the hosts of an attempt find each other: small files in the attempt's folder, each written whole.

preparing.json is there while rank 0 makes data, head.json says where Ray's head is, worker-NAME.json who joined it,
ready.json that the cluster is whole, asked.json why it is to end, STOP that it is over, exit.json how it ended and what
follows. The folder's name is new for each attempt, so a file from an earlier one is never taken for its own. Phases and
their seconds go to phases.jsonl.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpo.errors import ClusterError
from hpo.layout import SweepDirectory, write_json

LOOPBACK = "127.0.0.1"
_FORGET_S = 2.0  # between two changes that make NFS forget the names that it remembers


class Rendezvous:
    """The attempt's folder on shared storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._start = time.time()
        self._refreshed = 0.0

    def announce(self, name: str, **value: Any) -> None:
        write_json(self.folder / f"{name}.json", value, mode=0o600)

    def withdraw(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """What `name` announced, or None. Lists the folder: on NFS a missing name is remembered for a minute, and one
        that is listed may be gone."""
        if f"{name}.json" not in self._names():
            return None
        try:
            value: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise
        return value

    def refresh(self) -> None:
        """For whoever waits for a file here, or for another attempt: NFS goes on to show the names that it remembers
        for up to a minute, but not past a change that this host makes in the folder."""
        if time.monotonic() - self._refreshed < _FORGET_S:
            return
        self._refreshed = time.monotonic()
        for folder in (self.folder, self.folder.parent):
            change = folder / f".{socket.gethostname()}.{os.getpid()}"
            with suppress(OSError):  # a full disk: then the minute it is
                change.touch()
                change.unlink()

    def _names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder)}
        except FileNotFoundError:
            return set()

    def stop(self) -> None:
        (self.folder / "STOP").touch()

    @property
    def stopped(self) -> bool:
        return "STOP" in self._names()

    @property
    def live(self) -> bool:
        """Whether there is a head to join, as far as the files say."""
        names = self._names()
        return "head.json" in names and not names & {"STOP", "exit.json"}

    def phase(self, name: str, **about: Any) -> None:
        """Notes that a phase is over, with the seconds since this process began its part."""
        line = {"t": round(time.time(), 3), "seconds": round(time.time() - self._start, 3), "phase": name, **about}
        with suppress(OSError), (self.folder / "phases.jsonl").open("a", encoding="utf-8") as stream:  # a full disk
            stream.write(json.dumps({"host": socket.gethostname(), **line}) + "\n")


def find_live(directory: SweepDirectory, prefix: str = "") -> Rendezvous | None:
    """The sweep's newest attempt that can be joined, of those whose name begins with `prefix`."""
    folders = [folder for folder in directory.attempt_folders() if folder.name.startswith(prefix)]
    found = [(head["started"], rendezvous) for rendezvous in map(Rendezvous, folders)
             if rendezvous.live and (head := rendezvous.read("head"))]  # fmt: skip
    return max(found, key=lambda pair: pair[0])[1] if found else None


def own_address() -> str:
    """This host's IP as others reach it: of the interface named by SLURMTUNE_INTERFACE, else what its name resolves to
    when that is no loopback address, else the one that the default route leaves by."""
    interface = os.environ.get("SLURMTUNE_INTERFACE")
    if interface:
        return interface_address(interface)
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = LOOPBACK
    if not address.startswith("127."):
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: no packet is sent, the kernel only picks a route
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


def interface_address(interface: str) -> str:
    """Its IPv4 address. Raises ClusterError: there is no such interface, or it has none."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            siocgifaddr = 0x8915
            answer = fcntl.ioctl(probe.fileno(), siocgifaddr, struct.pack("256s", interface[:15].encode()))
        except OSError as error:
            raise ClusterError(
                f"SLURMTUNE_INTERFACE={interface}: {error}; `ip -br addr` lists the interfaces."
            ) from None
    return socket.inet_ntoa(answer[20:24])


def reachable(address: str, timeout_s: float = 1.0) -> bool:
    """Whether something accepts TCP connections at ip:port."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_s):
            return True
    except OSError:
        return False
