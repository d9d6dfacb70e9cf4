"""What storage and sharing alone give, without a training step:

    python bench/data/storage.py fetch  --images PHOTOGRAPHS --work /tmp/bench   # random samples: shards, h5py's vlen
    python bench/data/storage.py gather --images PHOTOGRAPHS --work /tmp/bench   # random raw images, a copy of as much
    python bench/data/storage.py cold   --images PHOTOGRAPHS --work /tmp/bench   # from the disk: by blocks, at random
    python bench/data/storage.py node   --images PHOTOGRAPHS --work /tmp/bench   # 4 loaders at once: ours, timm's

fetch: stored bytes of images in random order, 32 at a time as a loader asks for them, in CPU time; our side compares
checksums at the first reading. gather: batches of 128 raw images in random order into memory that is there, against
numpy copying as many bytes that lie in a row. cold: an epoch's stored bytes that the page cache does not hold, in wall
time. node: 4 processes with a worker each begin together and read for --seconds; images of all together a second of
wall time. In turns, ROUNDS times, page cache warm but for cold; medians and ratios round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.data.photographs import BATCH, SIZES, make_folder, make_shards, make_vlen

TRIALS = 4
START_S = 120


def fetch(arguments, name):
    """CPU microseconds a sample, round by round."""
    import h5py
    import numpy as np

    from hpo.data.read import open_split

    shards = open_split(arguments.work / f"shards-{name}", "train")
    vlen = h5py.File(make_vlen(arguments.work, name), "r")["images"]
    assert vlen[5].tobytes() == shards.read_bytes(5)

    def each(read):
        return lambda batch: [read(index) for index in batch.tolist()]

    def first_time(batch):
        shards._seen[batch] = False
        return shards.read_many(batch)

    sides = {
        "slurmtune": shards.read_many,
        "h5py vlen": each(vlen.__getitem__),
        "h5py vlen, a sorted batch at once": lambda batch: vlen[np.sort(batch)],
        "slurmtune at the first reading": first_time,
        "slurmtune, one by one": each(shards.read_bytes),
    }
    found = {side: [] for side in sides}
    for number in range(arguments.rounds + 1):
        order = np.random.default_rng(number).permutation(len(shards))
        batches = [order[first : first + 32] for first in range(0, len(order), 32)]
        for side, read in sides.items():
            began = time.process_time()
            for batch in batches:
                read(batch)
            found[side].append((time.process_time() - began) / len(order) * 1e6)
    return {side: times[1:] for side, times in found.items()}, "CPU µs a sample", lambda ours, theirs: theirs / ours


def gather(arguments, name):
    """GB a second of CPU, round by round."""
    import numpy as np

    from hpo.data.plan import Recipe
    from hpo.data.read import open_split
    from hpo.data.sources import find_source
    from hpo.data.write import prepare

    size, place = SIZES[name], arguments.work / f"raw-{name}"
    if not place.is_dir():
        prepare(find_source(arguments.images), place, Recipe(encoding="raw", size=size))
    shards = open_split(place, "train")
    batches = len(shards) // BATCH
    out = np.empty((BATCH, *shards.image_shape), np.uint8)
    rows = np.full((batches * BATCH, *shards.image_shape), 7, np.uint8)  # pages of its own, as zeros would not have
    found = {"slurmtune": [], "memory copy": []}
    for number in range(arguments.rounds + 1):
        order = np.random.default_rng(number).permutation(len(shards))[: batches * BATCH].reshape(batches, BATCH)
        for side in found:
            began = time.process_time()
            for _ in range(repeats := max(1, 2**30 // rows.nbytes)):
                for batch in range(batches):
                    if side == "slurmtune":
                        shards.gather(order[batch], out)
                    else:
                        np.copyto(out, rows[batch * BATCH : (batch + 1) * BATCH])
            found[side].append(repeats * rows.nbytes / (time.process_time() - began) / 1e9)
    return {side: rates[1:] for side, rates in found.items()}, "GB/s", lambda ours, theirs: ours / theirs


def cold(arguments, name):
    """MB a second of wall time of an epoch that finds nothing in memory, round by round; and reads of the file."""
    import numpy as np

    from hpo.data.blockwise import Blockwise
    from hpo.data.read import open_split
    from hpo.trial.order import WINDOW, EpochPlan

    shards = open_split(arguments.work / f"shards-{name}", "train")
    blocks, count = shards.blocks(), len(shards)
    total, found = int(shards._size.sum()) / 1e6, {"blocks": [], "full": []}
    for number in range(arguments.rounds + 1):
        for side in found:
            plan = EpochPlan(count, 32, blocks if side == "blocks" else None)
            reader = Blockwise(shards, blocks, WINDOW) if side == "blocks" else shards
            if side == "blocks":
                reader.begin(np.concatenate(plan.windows(0, number)), 0)
            for file in shards._files:
                os.posix_fadvise(file._open(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            for batch in plan.batches(0, number):
                reader.read_many(batch)
            found[side].append(total / (time.perf_counter() - began))
    return {side: rates[1:] for side, rates in found.items()}, "MB/s", lambda ours, theirs: ours / theirs


def node(arguments, name):
    """Images a second of all loaders together, round by round."""
    found = {"slurmtune": [], "timm": []}
    for _ in range(arguments.rounds):
        for side in found:
            own = [sys.executable, __file__, "one", "--work", str(arguments.work), "--sizes", name, "--side", side]
            own += ["--seconds", str(arguments.seconds)]
            loaders = [
                subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(TRIALS)
            ]
            for loader in loaders:
                assert loader.stdout.readline() == "ready\n"
            for loader in loaders:
                loader.stdin.write("go\n")
                loader.stdin.flush()
            answers = [loader.communicate(timeout=START_S + arguments.seconds)[0] for loader in loaders]
            found[side].append(sum(json.loads(answer)["per_s"] for answer in answers))
    return found, "images/s", lambda ours, theirs: ours / theirs


def one(arguments):
    """One loader of `node`: says that it is ready, waits, reads."""
    import torch

    from bench.data.pipelines import ours, timm_folder

    torch.set_num_threads(1)
    epoch = {"slurmtune": ours, "timm": timm_folder}[arguments.side](arguments.work, arguments.sizes[0], 1)
    sum(len(batch) for batch, _ in zip(epoch(0), range(4), strict=False))
    print("ready", flush=True)
    sys.stdin.readline()
    began, images, number = time.perf_counter(), 0, 1
    while time.perf_counter() - began < arguments.seconds:
        for batch in epoch(number):
            images += len(batch)
            if time.perf_counter() - began > arguments.seconds:
                break
        number += 1
    print(json.dumps({"per_s": images / (time.perf_counter() - began)}), flush=True)
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fetch", "gather", "cold", "node", "one"))
    parser.add_argument("--images", type=Path, help="folder of photographs by split and class")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        one(arguments)
    measure = {"fetch": fetch, "gather": gather, "cold": cold, "node": node}[arguments.what]
    usual = {"fetch": list(SIZES), "gather": ["224", "64"], "cold": ["224", "full"], "node": ["64", "224"]}
    for name in arguments.sizes or usual[arguments.what]:
        if not (arguments.work / f"shards-{name}").is_dir() and arguments.what != "gather":
            make_shards(arguments.images, arguments.work, name)
        if arguments.what == "node":
            make_folder(arguments.work, name)
        found, unit, ratio = measure(arguments, name)
        (first, ours), *others = found.items()
        print(f"{name:>5} {first:12} {statistics.median(ours):8.1f} {unit}")
        for side, values in others:
            ratios = [ratio(a, b) for a, b in zip(ours, values, strict=True)]
            spread = f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{name:>5} {side:12} {statistics.median(values):8.1f} {unit}, slurmtune {spread}", flush=True)


if __name__ == "__main__":
    main()
