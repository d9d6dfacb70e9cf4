"""Images per CPU-second of training pipelines: JPEG decoding, random-resized-crop, flip, uint8 batches of 128.

    python bench/data/pipelines.py --images PHOTOGRAPHS --work /tmp/bench

Each pipeline runs in a process of its own, in turns, ROUNDS times; its first epoch is not counted, then whole epochs
are. CPU seconds are those of the process and its children. Peers that are not installed are named and left out:
pip install webdataset litdata; FFCV needs a compiler, OpenCV and TurboJPEG.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.data.photographs import BATCH, SCALE, SIZES, make_folder, make_shards, make_tars, make_vlen, samples

EPOCHS = {"full": 1, "224": 2, "64": 6}


def _our_parts(work, name, workers, place=None, once=False):
    import torch

    from hpo.data.decoded import decode_once
    from hpo.data.read import open_split
    from hpo.trial.augment import Augmentation
    from hpo.trial.loader import Loader
    from hpo.trial.pixels import Delivery

    shards = open_split(place or work / f"shards-{name}", "train")
    delivery, decoded = Delivery(SIZES[name], False, False), None
    if once:
        os.environ["SLURMTUNE_LOCAL_DIRS"] = str(work)
        decoded = decode_once(shards)
        assert decoded
    loader = Loader(shards, torch.arange(len(shards)), delivery, BATCH, workers, decoded=decoded)
    return loader, Augmentation(("random_resized_crop", "random_horizontal_flip"), SCALE[0], 0)


def ours(work, name, workers):
    loader, spec = _our_parts(work, name, workers)
    return lambda epoch: (batch.images for batch in loader.training(spec.at(epoch + 1)))


def ours_decoded(work, name, workers):
    """Decoded once beforehand, which is not counted: it costs what decoding in one epoch costs."""
    loader, spec = _our_parts(work, name, workers, once=True)
    return lambda epoch: (batch.images for batch in loader.training(spec.at(epoch + 1)))


def linked(work, name, workers):
    """The same files in somebody else's HDF5 file, variable-length, read where it lies."""
    from hpo.data.link import link_file
    from hpo.data.sources import find_source
    from hpo.data.split import Shares

    place = work / f"linked-{name}"
    if not place.is_dir():
        link_file(find_source(make_vlen(work, name)), place, Shares(0, 0), 0)
    loader, spec = _our_parts(work, name, workers, place)
    return lambda epoch: (batch.images for batch in loader.training(spec.at(epoch + 1)))


def ours_in_processes(work, name, workers):
    """The same batches made by worker processes instead of threads."""
    import torch

    class Batches(torch.utils.data.Dataset):
        parts = None

        def __len__(self):
            return 3068 // BATCH

        def __getitem__(self, number):
            self.parts = self.parts or _our_parts(work, name, 0)
            loader, spec = self.parts
            return next(loader.training(spec.at(1), first=number)).images

    loader = torch.utils.data.DataLoader(Batches(), None, True, num_workers=workers, persistent_workers=True)
    return lambda epoch: iter(loader)


def _torch_loader(dataset, workers, **options):
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0, **options
    )
    return lambda epoch: (batch[0] for batch in loader)


def timm_folder(work, name, workers):
    from timm.data import ImageDataset, create_transform
    from timm.data.loader import fast_collate

    size = SIZES[name]
    transform = create_transform(
        size, is_training=True, use_prefetcher=True, scale=SCALE, hflip=0.5, color_jitter=None, interpolation="bilinear"
    )
    return _torch_loader(
        ImageDataset(str(make_folder(work, name)), transform=transform), workers, collate_fn=fast_collate
    )


def _pil_transform(name):
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIZES[name], scale=SCALE)
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])


def torchvision_folder(work, name, workers):
    from torchvision.datasets import ImageFolder

    return _torch_loader(ImageFolder(str(make_folder(work, name)), _pil_transform(name)), workers)


def webdataset(work, name, workers):
    import webdataset as wds

    transform = _pil_transform(name)
    data = wds.WebDataset(make_tars(work, name), shardshuffle=4, seed=0).shuffle(1000).decode("pil")
    data = data.to_tuple("jpg", "cls").map_tuple(transform, lambda label: label).batched(BATCH, partial=False)
    loader = wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda epoch: (batch[0] for batch in loader)


def litdata(work, name, workers):
    import io

    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter
    from PIL import Image

    root = work / f"litdata-{name}"
    if not root.is_dir():
        writer = BinaryWriter(str(root), chunk_bytes="32MB")
        for number, (data, label) in enumerate(samples(work, name)):
            writer.add_item(number, {"image": data, "label": label})
        writer.done()
        writer.merge()
    transform = _pil_transform(name)

    class Decoded(StreamingDataset):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(item["image"])).convert("RGB")), item["label"]

    loader = StreamingDataLoader(
        Decoded(str(root), shuffle=True, drop_last=True), batch_size=BATCH, num_workers=workers, persistent_workers=True
    )
    return lambda epoch: (batch[0] for batch in loader)


def ffcv_raw(work, name, workers):
    """FFCV's mode without decoding: all pixels in its file."""
    return ffcv(work, name, workers, raw=True)


def ffcv(work, name, workers, raw=False):
    """FFCV encodes anew: at the quality that comes nearest to the bytes of the others."""
    import io

    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip
    from ffcv.writer import DatasetWriter
    from PIL import Image

    path = work / (f"{name}-raw.beton" if raw else f"{name}.beton")
    if not path.is_file():
        found = list(samples(work, name))

        class Photographs:
            def __len__(self):
                return len(found)

            def __getitem__(self, i):
                return Image.open(io.BytesIO(found[i][0])).convert("RGB"), found[i][1]

        quality = {"full": 77, "224": 95, "64": 95}[name]
        image = RGBImageField(write_mode="raw" if raw else "jpg", jpeg_quality=quality)
        writer = DatasetWriter(str(path), {"image": image, "label": IntField()}, num_workers=1)
        writer.from_indexed_dataset(Photographs())
    decoder = RandomResizedCropRGBImageDecoder((SIZES[name],) * 2, scale=SCALE)
    loader = Loader(
        str(path),
        batch_size=BATCH,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": [decoder, RandomHorizontalFlip()], "label": None},
    )
    return lambda epoch: (batch[0] for batch in loader)


PIPELINES = {
    "slurmtune": ours,
    "slurmtune-decoded": ours_decoded,
    "slurmtune-processes": ours_in_processes,
    "slurmtune-linked": linked,
    "timm": timm_folder,
    "torchvision": torchvision_folder,
    "webdataset": webdataset,
    "litdata": litdata,
    "ffcv": ffcv,
    "ffcv-raw": ffcv_raw,
}


def family():
    """This process and its descendants."""
    todo, found = [os.getpid()], []
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += [int(child) for child in task.read_text().split()]
    return found


def cpu_seconds():
    total = 0
    for pid in family():
        if not Path(f"/proc/{pid}").is_dir():
            continue
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mib():
    """Proportional set size: shared pages count once over all processes."""
    lines = []
    for pid in family():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines += Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024


def measure(pipeline, work, name, workers):
    """One JSON line: images per CPU-second and per second of whole epochs, and the most memory of an epoch."""
    import torch

    torch.set_num_threads(1)
    epoch, memory = PIPELINES[pipeline](work, name, workers), 0.0
    for number, batch in enumerate(epoch(0)):
        if number % 6 == 5:
            memory = max(memory, memory_mib())
    if str(batch.dtype).removeprefix("torch.") != "uint8":
        raise SystemExit(f"{pipeline} gives {batch.dtype}")
    cpu, start, images = cpu_seconds(), time.perf_counter(), 0
    for number in range(1, 1 + EPOCHS[name]):
        images += sum(len(batch) for batch in epoch(number))
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - start
    print(json.dumps({"per_cpu_s": images / cpu, "per_s": images / wall, "memory_mib": memory, "images": images}))
    sys.stdout.flush()
    os._exit(0)  # some peers' workers do not end by themselves


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs by split and class")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--pipelines", nargs="+", default=list(PIPELINES), choices=PIPELINES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.work, arguments.sizes[0], arguments.workers)
    for name in arguments.sizes:
        if arguments.images:
            make_shards(arguments.images, arguments.work, name)
        compare(arguments, name)
    return 0


def compare(arguments, name):
    found = {pipeline: [] for pipeline in arguments.pipelines}
    for _ in range(arguments.rounds):
        for pipeline in list(found):
            own = ["--measure", pipeline, "--work", str(arguments.work), "--sizes", name]
            command = [sys.executable, __file__, *own, "--workers", str(arguments.workers)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            if done.returncode or not done.stdout:
                print(
                    f"{name}: {pipeline} left out: {(done.stderr.strip() or 'no output').splitlines()[-1]}", flush=True
                )
                del found[pipeline]
                continue
            found[pipeline].append(json.loads(done.stdout.splitlines()[-1]))
    for pipeline, rows in found.items():
        if rows:
            print(line(name, pipeline, rows, found.get("slurmtune")), flush=True)


def line(name, pipeline, rows, first):
    """Medians; the ratio is that of slurmtune to the peer, round by round."""
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    text = f"{name:>5} {pipeline:20} {middle['per_cpu_s']:8.0f} images/CPU-s {middle['per_s']:8.0f} images/s"
    if first:
        ratios = [mine["per_cpu_s"] / row["per_cpu_s"] for mine, row in zip(first, rows, strict=False)]
        text += f"  slurmtune x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{text}  {middle['memory_mib']:6.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
