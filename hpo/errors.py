"""Every error that slurmtune raises on purpose, with the exit code that its commands end with.

    SlurmtuneError            1   anything of ours that has no narrower class
      UsageError              2   the command line, the sweep file or the directory named is wrong
      DataError               3   images, labels or shards cannot be used as they are
      ClusterError            4   SLURM or Ray refused, is missing, or did not come up in time
      TrialError              5   a trial cannot be trained as configured
        WeightsError          5   pretrained weights are asked for and not at hand
        AcceleratorError      5   a trial was given a GPU and finds none
      SweepError              6   the sweep ended without one usable trial
      JournalError            7   the journal is damaged, newer than this program, or
        JournalHeldError      7   held by another driver
    (STOPPED)                75   stopped before its end, by whatever; `submit.py --resume DIR` goes on
    (interrupted)           130   stopped by Ctrl-C; `submit.py --resume DIR` goes on

A message is one line: what is wrong, the offending value, and what to do about it. A traceback is for bugs of ours.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

_REMEDIES = {  # what a person can do about a file system's refusal
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "your quota is used up, make room there",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may read and write",
    errno.EPERM: "name a place that you may read and write",
    errno.ESTALE: "its file system was mounted anew, try again",
    errno.EIO: "its file system fails, try again or ask its administrators",
}
STOPPED = 75  # EX_TEMPFAIL: not done, try again


class SlurmtuneError(Exception):
    """Root of the tree. `str(error)` is the one line that a person reads."""

    exit_code = 1


class UsageError(SlurmtuneError):
    exit_code = 2


class DataError(SlurmtuneError):
    exit_code = 3


class ClusterError(SlurmtuneError):
    exit_code = 4


class TrialError(SlurmtuneError):
    exit_code = 5


class WeightsError(TrialError):
    pass


class AcceleratorError(TrialError):
    pass


class SweepError(SlurmtuneError):
    exit_code = 6


class JournalError(SlurmtuneError):
    exit_code = 7


class JournalHeldError(JournalError):
    pass


def explain_storage(error: OSError) -> str:
    """'PATH: No space left on device; make room there'; '' of what no file system's state explains, a bug of ours."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.filename or 'a file'}: {error.strerror}; {remedy}" if remedy else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' naming the closest of `known`, or '' when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
