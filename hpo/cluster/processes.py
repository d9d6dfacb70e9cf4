"""Child processes that cannot outlive us: each in a session of its own, ended by process group, and searched for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_KILL_S = 5.0  # for the kernel to end a process


class Child:
    """One child and all that it starts, as one process group."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: IO[bytes],
        ignore_usr: bool,
        listens: bool = False,
    ):
        """Starts `command`; its output goes to `log`. `ignore_usr`: it does not die of SIGUSR1 and SIGUSR2, which some
        sites send to every process of a job and whose default is death. `listens`: it will be told something."""
        self.name = name
        libc = ctypes.CDLL(None, use_errno=True)
        # Ray aborts when its head goes: no gigabytes of core dumps, which hold the token too. A limit of 1 keeps the
        # kernel from feeding crash handlers as well, which 0 does not.
        core = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1

        def prepare() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # if we are killed outright, the child still hears of it
            resource.setrlimit(resource.RLIMIT_CORE, (core, core))
            if ignore_usr:
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)

        self._process = subprocess.Popen(
            command,
            env=dict(environ),
            stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  no threads run here yet
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def tell(self, text: str) -> None:
        """`text` and then the end of file, on the standard input of a child that listens; one that has ended hears
        nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(text.encode())

    def send(self, signum: int) -> None:
        """A signal to the child alone, which tells its own children what they need to know."""
        if self.poll() is None:
            self._process.send_signal(signum)

    def end(self, grace_s: float) -> None:
        """SIGTERM to the child, `grace_s` seconds to go, then SIGKILL to the whole group."""
        self.send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a dead file system or a GPU
            self._process.wait(_KILL_S)
        if self._process.stdin:
            self._process.stdin.close()


def identify(pid: int) -> str:
    """A name of the process that no later one of the same number has; '' when there is no such process."""
    with contextlib.suppress(OSError):
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{pid}.{started}"
    return ""


def is_there(identity: str) -> bool:
    """Whether the process that `identify` named still runs."""
    pid = int(identity.partition(".")[0])
    return identify(pid) == identity and _alive(pid)


def find_processes(mark: str) -> list[int]:
    """Our own processes on this host with `mark` in their command line or environment, this one left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if folder.stat().st_uid != os.getuid():
                continue
            text = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
            if mark.encode() in text:
                found.append(int(folder.name))
    return found


def end_processes(pids: Iterable[int], deadline_s: float = 5) -> list[int]:
    """SIGKILL for each; returns those that are still there at the deadline (a process stuck in the kernel)."""
    left = list(pids)
    end = time.monotonic() + deadline_s
    while left and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        left = [pid for pid in left if _alive(pid)]
    return left


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    return False
