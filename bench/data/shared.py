"""How many bytes trials of one node read from the data's directory, as a share of the data. Needs strace.

    python bench/data/shared.py --data DATA --trials 4

Real trials of one epoch begin together, each a process of its own, with SLURMTUNE_STAGE=always in an empty local
directory; then the same with SLURMTUNE_STAGE=never and SLURMTUNE_DECODED_MB=0, which is what trials read that share
nothing. Counted is what system calls return that read from a file below DATA, by strace, threads and children
included. What is mapped is not seen: take JPEG shards, since raw ones are mapped where they are not copied.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CALLS = "read,pread64,readv,preadv,preadv2,sendfile,copy_file_range"
DEADLINE_S = 1800
_TRIAL = ("model.timm_image.checkpoint_name=test_vit", "model.timm_image.pretrained=false", "optim.max_epochs=1")
# '1234  pread64(7</data/train-00000.h5>, ... ) = 4096'; of sendfile the file that is read is the second
_CALL = re.compile(r"(?:\w+)\(.*?<(?P<path>[^>]*)>.*\)\s+=\s+(?P<bytes>\d+)$")


def count_bytes(trace, directory):
    """Of all calls in the file `trace` that read below `directory`."""
    total, pending = 0, {}
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            pending[pid] = call.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in call:
            call = pending.pop(pid, "") + call.partition("resumed>")[2]
        call = re.sub(r"sendfile\(\d+<[^>]*>, ", "sendfile(", call.strip())
        if (found := _CALL.match(call)) and Path(found["path"]).is_relative_to(directory):
            total += int(found["bytes"])
    return total


def run(data, trials, stage, work):
    """Bytes that `trials` trials read from `data`."""
    local = work / "local"
    local.mkdir(parents=True)
    environ = {**os.environ, "SLURMTUNE_STAGE": stage, "SLURMTUNE_LOCAL_DIRS": str(local), "OMP_NUM_THREADS": "1"}
    if stage == "never":
        environ["SLURMTUNE_DECODED_MB"] = "0"
    traces, processes = [work / f"{number}.strace" for number in range(trials)], []
    for number, trace in enumerate(traces):
        command = ["strace", "-f", "-y", "-qq", "-s", "0", "-e", f"trace={CALLS}", "-o", str(trace), sys.executable]
        command += ["-m", "hpo.trial", "--data", str(data), "--out", str(work / f"trial-{number}")]
        command += [word for value in _TRIAL for word in ("--set", value)]
        with (work / f"{number}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log))
    for number, process in enumerate(processes):
        if process.wait(DEADLINE_S):
            raise SystemExit(f"trial {number} failed:\n{(work / f'{number}.log').read_text()[-2000:]}")
    left = [path.name for path in local.rglob("*") if path.is_file() and path.stat().st_size]
    if left:
        print(f"left in the local directory: {', '.join(left)}", file=sys.stderr)
    return sum(count_bytes(trace, data) for trace in traces)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py made")
    parser.add_argument("--trials", type=int, default=4)
    arguments = parser.parse_args()
    if not shutil.which("strace"):
        raise SystemExit("strace is missing; on Debian: apt-get install strace")
    data = arguments.data.resolve()
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    print(f"the data: {size} bytes in {data.name}")
    for stage in ("always", "never"):
        with tempfile.TemporaryDirectory() as work:
            read = run(data, arguments.trials, stage, Path(work))
        print(f"{arguments.trials} trials, SLURMTUNE_STAGE={stage}: {read} bytes, {read / size:.2f} times the data")


if __name__ == "__main__":
    main()
