"""How time and memory grow with the number of images of a data set, and with the size of an image."""

import json
import math
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

from bench import memory
from bench.harness import CLOCKS, Row, project_command, run_command

COUNTS, QUICK_COUNTS = (100, 1_000, 10_000, 100_000), (100, 1_000, 3_000)
SIZES_PX = (320, 640, 960, 1280)
LABELS = "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.2\n2 0.7 0.6 0.3 0.1\n"
LINKS_OF_A_FILE = 10_000  # file systems allow some 65,000
EXPONENT_MARK = 1.1  # 1 is linear
BYTES_MARK = 200


def measurements(settings):
    counts = QUICK_COUNTS if settings.quick else COUNTS
    yield from growth_with_images(settings, counts)
    yield from growth_with_size(settings)


def growth_with_images(settings, counts):
    found = []
    for count in counts:
        folder = linked_images(Path(settings.folder, f"g{count}"), count)
        found.append(in_own_process("open_dataset", folder, settings.clock))
        shutil.rmtree(folder.parent)
    for key, what in (
        ("scan_s", "label scan"),
        ("cached_s", "label scan from its cache"),
        ("epoch_s", "order of an epoch"),
    ):
        seconds = [result[key] for result in found]
        series = ", ".join(f"{1e6 * s / n:,.1f}" for s, n in zip(seconds, counts))
        what = f"{what}, {counts[0]:,} to {counts[-1]:,} images: exponent of time"
        note = f"{series} us an image for {', '.join(f'{n:,}' for n in counts)}"
        yield Row(what, ours=exponent(counts[1:], seconds[1:]), unit="", mark=EXPONENT_MARK, note=note)
    if found[0]["bytes"] is not None:
        (n1, less), (n2, more) = ((counts[i], found[i]) for i in (-2, -1))
        value, peak = ((more[key] - less[key]) / (n2 - n1) for key in ("bytes", "peak_bytes"))
        what, note = (
            f"memory of an open data set beside its labels, {n2:,} images",
            f"{peak:,.0f} B an image at the peak",
        )
        yield Row(what, ours=value, unit="B an image", mark=BYTES_MARK, note=note)


def growth_with_size(settings):
    """Measure the attention of EdgeViT-XXS with most tokens: stage 1, one for every 16 x 16 px."""
    found = [in_own_process("attend", size, settings.threads, **memory.ENVIRONMENT) for size in SIZES_PX]
    tokens = [(size // 16) ** 2 for size in SIZES_PX]
    for key, unit, mark in (("mb", "MB", EXPONENT_MARK), ("ms", "ms", None)):
        values = [result[key] for result in found]
        if None in values:
            continue
        what = f"EdgeViT attention, {tokens[0]:,} to {tokens[-1]:,} tokens: exponent of {'memory' if mark else 'time'}"
        note = ", ".join(f"{value:.1f}" for value in values) + f" {unit} at {', '.join(map(str, SIZES_PX))} px"
        yield Row(what, ours=exponent(tokens, values), unit="", mark=mark, note=note)


def exponent(sizes, values) -> float:
    """Return p of values ~ sizes**p, between the ends."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def linked_images(folder: Path, count: int) -> Path:
    """Make FOLDER/images with `count` JPEGs, links to a few small ones, and their labels; return it."""
    import cv2
    import numpy as np

    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            file, first = (folder / kind / f"{n:06d}.{suffix}" for n in (i, i - i % LINKS_OF_A_FILE))
            if i % LINKS_OF_A_FILE:
                os.link(first, file)
            elif kind == "labels":
                file.write_text(LABELS)
            else:
                cv2.imwrite(str(file), np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return folder / "images"


def in_own_process(function: str, *arguments, **environment) -> dict:
    return json.loads(run_command(project_command("-m", "bench.rows.growth", function, *arguments).argv, **environment))


def open_dataset(folder: str, clock: str) -> dict:
    """Measure seconds of the scan, with its cache, and of an epoch's order; and bytes held beside the labels."""
    from utils.dataloaders import create_dataloader

    read_clock = CLOCKS[clock]

    def opened():
        return create_dataloader(folder, 64, 16, 32, workers=0, shuffle=True, rank=1)

    measured = memory.available()
    if measured:
        memory.give_back()
        before = memory.own_memory("VmRSS")
        memory.reset_peak()
    start = read_clock()
    loader, dataset = opened()
    result = {"scan_s": read_clock() - start, "bytes": None}
    if measured:
        peak = memory.own_memory("VmHWM") - before
        memory.give_back()
        labels = dataset.labels.values.nbytes
        result |= {"bytes": memory.own_memory("VmRSS") - before - labels, "peak_bytes": peak - labels}
    times = []
    for epoch in range(3):
        start = read_clock()
        loader.sampler.set_epoch(epoch)
        for _ in loader.batch_sampler:
            pass
        times.append(read_clock() - start)
    start = read_clock()
    opened()
    return {**result, "cached_s": read_clock() - start, "epoch_s": statistics.median(times)}


def attend(size_px: str, threads: str) -> dict:
    """Measure milliseconds and peak MB of one attention layer."""
    import torch

    from models.backbone import edgevit_xxs

    torch.set_num_threads(int(threads))
    layer = edgevit_xxs().eval().blocks1[0].SelfAttn.attn
    x = torch.rand(1, layer.qkv.in_features, int(size_px) // 16, int(size_px) // 16)
    x = x.contiguous(memory_format=torch.channels_last)
    function = torch.inference_mode()(lambda: layer(x))
    peak, times = memory.peak_of_call(function), []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return {"mb": peak, "ms": statistics.median(times)}


if __name__ == "__main__":
    result = {"open_dataset": open_dataset, "attend": attend}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(result))
