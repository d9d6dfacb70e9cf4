"""A host of one's own inside this one: files, shared memory and network are its own, processes are seen from outside.

What a sweep leaves, listens on or sends can then be said exactly, whatever else runs on the machine. Needs root. Two
users live there, alice and bob, who can run this checkout's Python.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from hpo.cluster.processes import identify, is_there

ROOT = Path(__file__).resolve().parents[2]
USERS = {"alice": 60001, "bob": 60002}
DOOR = "way-out"  # takes the packets for everywhere else, counts them and drops them


def why_not() -> str:
    """Why there can be no cage here, '' when there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and a second user"
    if missing := [name for name in ("unshare", "nsenter", "setpriv", "ip", "mount") if not shutil.which(name)]:
        return f"{', '.join(missing)} missing"
    probe = ["unshare", "--mount", "--net", "ip", "link", "add", DOOR, "type", "veth", "peer", "name", "nowhere"]
    tried = subprocess.run(probe, capture_output=True, timeout=30, check=False)
    return "" if tried.returncode == 0 else "namespaces or pairs of devices are not permitted"


def _closed_to_others(path: Path) -> Path | None:
    """The topmost directory on the way to `path` that other users cannot pass."""
    return next((p for p in reversed([path, *path.parents]) if not p.stat().st_mode & 0o001), None)


def _cover(top: Path, keep: list[Path]) -> list[str]:
    """Shell lines that put an empty directory over `top`, in which `keep` are still to be seen."""
    lines = []
    for i, path in enumerate(keep):
        lines += [f"mkdir -p /dev/shm/keep/{i}", f"mount --bind {path} /dev/shm/keep/{i}"]
    lines += [f"mount -t tmpfs -o mode={'1777' if top == Path('/tmp') else '755'} cage {top}"]
    for i, path in enumerate(keep):
        lines += [f"mkdir -p {path}", f"mount --move /dev/shm/keep/{i} {path}", f"rmdir /dev/shm/keep/{i}"]
    return lines


class Cage:
    """There from `with` on; `way_out`: whether there is a route to elsewhere, which leads nowhere."""

    def __init__(self, way_out: bool = True) -> None:
        self._way_out = way_out

    def __enter__(self) -> Cage:
        setup = self._setup()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", "\n".join([*setup, "echo ready", "exec sleep 86400"])],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout.readline() == "ready\n", "the cage could not be set up"
        self.net = Path(f"/proc/{self._holder.pid}/ns/net").readlink()
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._holder.kill()
        self._holder.wait()

    def _setup(self) -> list[str]:
        packages = [path for path in sys.path if path.endswith("-packages")]
        needed = (sys.base_prefix, sys.prefix, ROOT, *packages)
        paths = list(dict.fromkeys(Path(os.path.realpath(path)) for path in needed))
        tops = {Path("/tmp"): [p for p in paths if p.is_relative_to("/tmp")]}
        for path in paths:
            if top := _closed_to_others(path):
                tops.setdefault(top, [])
                tops[top] += [path] if not any(path.is_relative_to(other) for other in tops[top]) else []
        lines = ["mount -t tmpfs -o mode=1777 cage /dev/shm"]
        for top, keep in tops.items():
            lines += _cover(top, keep)
        lines += ["rm -rf /dev/shm/keep", "ip link set lo up"]
        if self._way_out:
            lines += [f"ip link add {DOOR} type veth peer name nowhere", "ip link set nowhere addrgenmode none up",
                      f"ip link set {DOOR} arp off multicast off addrgenmode none up",
                      f"ip addr add 198.51.100.7/24 dev {DOOR}", f"ip route add default dev {DOOR}",
                      f"ip -6 route add default dev {DOOR} || true"]  # fmt: skip
        passwd = "".join(f"{name}:x:{uid}:{uid}::/tmp/{name}:/bin/sh\n" for name, uid in USERS.items())
        for name, uid in USERS.items():
            lines += [f"mkdir -m 700 /tmp/{name}", f"chown {uid}:{uid} /tmp/{name}"]
        lines += ["mkdir -m 755 /dev/shm/etc", f"(cat /etc/passwd; printf '{passwd}') > /dev/shm/etc/passwd",
                  "mount --bind /dev/shm/etc/passwd /etc/passwd", "umask 022"]  # fmt: skip
        return [*lines, "chmod 644 /dev/shm/etc/passwd"]

    def command(self, user: str, *words: object) -> list[str]:
        """`words` as that user inside; "root" as well."""
        inside = ["nsenter", "--target", str(self._holder.pid), "--mount", "--net"]
        if user != "root":
            inside += ["setpriv", f"--reuid={USERS[user]}", f"--regid={USERS[user]}", "--clear-groups"]
        return [*inside, "sh", "-c", f'cd /tmp/{"" if user == "root" else user} && exec "$@"', "sh", *map(str, words)]

    def environment(self, user: str) -> dict[str, str]:
        """What a fresh login has, and nothing that this test run was given."""
        return {"PATH": os.environ["PATH"], "HOME": f"/tmp/{user}", "USER": user, "LOGNAME": user, "LANG": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1", "SLURMTUNE_ACCELERATOR": "cpu"}  # fmt: skip

    def start(self, user: str, *words: object, **options: object) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        return subprocess.Popen(self.command(user, *words), text=True, env=self.environment(user), **options)

    def run(
        self, user: str, *words: object, timeout: float = 120, check: bool = True, environ: dict | None = None
    ) -> str:
        """Output of a command; `environ` is added to a fresh login's."""
        done = subprocess.run(
            self.command(user, *words),
            env={**self.environment(user), **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def path(self, inside: str | Path) -> Path:
        """Where a file inside is seen from outside."""
        return Path(f"/proc/{self._holder.pid}/root{inside}")

    def bring(self, user: str, source: Path, name: str) -> Path:
        """A copy of `source` in the user's home; its path inside."""
        home = self.path(f"/tmp/{user}")
        if source.is_dir():
            shutil.copytree(source, home / name)
        else:
            shutil.copyfile(source, home / name)
        for path in (home / name, *(home / name).rglob("*")):
            os.chown(path, USERS[user], USERS[user])
        return Path(f"/tmp/{user}/{name}")

    def processes(self) -> list[int]:
        """Pids, as seen from here, of all that runs inside."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                inside = entry.name.isdigit() and (entry / "ns/net").readlink() == self.net
                if inside and int(entry.name) != self._holder.pid and is_there(identify(int(entry.name))):
                    found.append(int(entry.name))
            except OSError:  # it has just ended
                continue
        return sorted(found)

    def files(self) -> set[str]:
        """What is in /tmp and in shared memory, homes left out."""
        found = {str(Path("/", path.relative_to(self.path("/")))) for place in ("/tmp", "/dev/shm")
                 for path in self.path(place).rglob("*")}  # fmt: skip
        homes = tuple(f"/tmp/{user}" for user in USERS)
        ours = tuple(str(path) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix)))  # may lie below /tmp
        return {path for path in found
                if not path.startswith((*homes, *ours, "/dev/shm/etc")) and path not in _parents()}  # fmt: skip

    def packets_out(self) -> int:
        """So many packets have been sent to elsewhere."""
        lines = Path(f"/proc/{self._holder.pid}/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[9]) for line in lines if line.strip().startswith(f"{DOOR}:"))

    def wait_until_clean(self, timeout: float = 120, files: bool = True) -> float:
        """Waits until no process is left inside, and with `files` no file either; returns the seconds that it took."""
        began = time.monotonic()
        while (left := self.processes()) or (files and self.files()):
            if time.monotonic() - began > timeout:
                names = [_command_line(pid) for pid in left]
                raise AssertionError(f"after {timeout} s there are still {names or sorted(self.files())[:20]}")
            time.sleep(0.1)
        return time.monotonic() - began


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    except OSError:
        return "one that has just ended"


def _parents() -> set[str]:
    """Directories that lead to what is kept below a cover."""
    return {str(parent) for path in (ROOT, Path(sys.prefix), Path(sys.base_prefix)) for parent in path.parents}


def new_name(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(2)}"
