"""Throughput of the training loader, compared with open_clip's loader and with JPEG decoding alone.

    python -m benchmarks.loader [--peer open_clip] [--sizes 112 224] [--photos FOLDER] [--json]

JPEGs of 512 px and about 83 kB, one worker process per loader, the same files and the published augmentation
for both: crops of 40 to 100 % of the area, color jitter 0.4 on 80 % and grayscale on 20 % of the images. Our
loader makes three rows of token ids per sample, open_clip's makes one; both use CLIP's byte-pair encoding.
`decode` is Pillow alone, from memory, at the smallest JPEG scale that has the pixels of the whole image.
`colors_later` is ours with `train.launch.device_color_jitter`: the worker draws color jitter and grayscale, and
a device applies them. Runs alternate; the results are medians, also of the ratios of consecutive runs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CACHE = Path(".cache")
SHARDS = CACHE / "bench-loader"
PEER = CACHE / "peer"
PEER_WEBDATASET = "webdataset==0.2.86"  # open_clip's loader fails with 1.0
IMAGES, SAMPLES, PER_SHARD = 256, 4096, 256
BATCH = 64
WARM_UP_BATCHES = 6  # the first batches fill queues and the caches of the tokenizers


def image_config(size: int) -> Any:
    """Return an image configuration with the augmentation that open_clip's pipeline applies too."""
    from clips_pipeline.data.images.transforms import ImageConfig

    return ImageConfig(size=size, crop_area=(0.4, 1.0), color_jitter=0.4, grayscale_probability=0.2)


def ours(size: int, batches: int, *, colors_later: bool = False) -> dict[str, float]:
    """Measure the loader of this project with one worker, with or without the color changes."""
    from clips_pipeline.data.loading.loader import train_loader

    loader = train_loader(
        SHARDS,
        "train",
        caption_reader(),
        image_config(size),
        global_batch_size=BATCH,
        workers=1,
        colors_later=colors_later,
    )
    return _timed(_for_ever(lambda epoch: (loader.dataset.set_epoch(epoch), iter(loader))[1]), batches)  # type: ignore[attr-defined]


def open_clip(size: int, batches: int) -> dict[str, float]:
    """Measure open_clip's own pipeline with one worker."""
    import open_clip
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
    from open_clip_train.data import get_wds_dataset

    jitter = (0.32, 0.32, 0.32, 0.08)
    augmentation = AugmentationCfg(scale=(0.4, 1.0), color_jitter=jitter, color_jitter_prob=0.8, gray_scale_prob=0.2)
    last = SAMPLES // PER_SHARD - 1
    arguments = argparse.Namespace(
        train_data=f"{SHARDS}/train/{{00000..{last:05d}}}.tar",
        train_num_samples=SAMPLES,
        train_data_upsampling_factors=None,
        seed=0,
        workers=1,
        world_size=1,
        batch_size=BATCH,
    )
    transform = image_transform_v2(PreprocessCfg(size=size), is_train=True, aug_cfg=augmentation)
    data = get_wds_dataset(arguments, transform, True, tokenizer=open_clip.get_tokenizer("ViT-B-16"))
    return _timed(_for_ever(lambda _: iter(data.dataloader)), batches)


def decode(size: int, batches: int) -> dict[str, float]:
    """Measure Pillow decoding JPEGs from memory at reduced scale."""
    import io

    from PIL import Image

    from clips_pipeline.data.shards.reader import ShardSet

    shards = ShardSet(SHARDS, "train")
    images = [shards.read(0, row).image for row in range(PER_SHARD)]

    def work() -> Iterator[None]:
        number = 0
        while True:
            for _ in range(BATCH):
                with Image.open(io.BytesIO(images[number % PER_SHARD])) as opened:
                    opened.draft("RGB", (size, size))
                    opened.load()
                number += 1
            yield

    return _timed(work(), batches)


MEASUREMENTS: dict[str, Callable[[int, int], dict[str, float]]] = {
    "ours": ours,
    "colors_later": partial(ours, colors_later=True),
    "open_clip": open_clip,
    "decode": decode,
}


def _timed(batches: Iterator[Any], count: int) -> dict[str, float]:
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    seconds = time.perf_counter() - started
    batches.close()  # type: ignore[attr-defined]
    peak = peak_gib() + peak_gib(resource.RUSAGE_CHILDREN)
    return {"samples_per_s": count * BATCH / seconds, "peak_rss_gib": peak}


def _for_ever(epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    number = 0
    while True:
        yield from epoch(number)
        number += 1


def peak_gib(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak resident memory of this process, or of its ended children (`RUSAGE_CHILDREN`)."""
    return resource.getrusage(who).ru_maxrss / 2**20


def caption_reader() -> Any:
    """Return a caption reader with CLIP's byte pairs."""
    from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
    from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer

    # Not imported: that would load torchvision and timm into our measurement too.
    package = find_spec("open_clip")
    assert package is not None and package.submodule_search_locations is not None  # noqa: PT018
    merges = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    return CaptionReader(CaptionConfig(), ClipBpeTokenizer.from_merges(merges), seed=0)


def _in_a_process(name: str, size: int = 0, batches: int = 0) -> dict[str, float]:
    """Run one measurement in a separate process."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    if name == "open_clip":
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PEER), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.loader", "--measure", name, str(size), str(batches)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _install_peer() -> None:
    if not (PEER / "webdataset").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(PEER),
            PEER_WEBDATASET,
        ]
        subprocess.run(command, check=True)


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.photos import make_shards

    index = make_shards(SHARDS, options.photos, IMAGES, SAMPLES, PER_SHARD)
    kilobytes = sum(shard.bytes for shard in index.split("train")) / SAMPLES / 1e3
    names = ["ours", "colors_later", "decode"]
    if options.peer:
        _install_peer()
        names.insert(1, options.peer)
    rates: dict[tuple[str, int], list[float]] = {}
    peaks: dict[tuple[str, int], float] = {}
    for _ in range(options.repeats):
        for size in options.sizes:
            for name in names:
                found = _in_a_process(name, size, options.batches)
                rates.setdefault((name, size), []).append(found["samples_per_s"])
                peaks[name, size] = max(peaks.get((name, size), 0.0), found["peak_rss_gib"])

    def rate(name: str) -> dict[int, float]:
        return {size: round(statistics.median(rates[name, size]), 1) for size in options.sizes}

    def times(other: str) -> dict[int, float]:
        # Ratios of consecutive runs, so that another job on the machine affects both alike.
        pairs = {size: zip(rates["ours", size], rates[other, size], strict=True) for size in options.sizes}
        return {size: round(statistics.median(mine / its for mine, its in pairs[size]), 2) for size in options.sizes}

    figures: dict[str, Any] = {
        "files": f"{'seeded' if options.photos is None else options.photos}, {kilobytes:.0f} kB per sample",
        "samples_per_s": rate("ours"),
        "peak_rss_gib": {size: round(peaks["ours", size], 2) for size in options.sizes},
        "colors_later_samples_per_s": rate("colors_later"),
        "times_colors_later": times("colors_later"),
        "decode_samples_per_s": rate("decode"),
        "fraction_of_decode": times("decode"),
    }
    if options.peer:
        peer = options.peer
        figures[f"{peer}_samples_per_s"] = rate(peer)
        figures[f"{peer}_peak_rss_gib"] = {size: round(peaks[peer, size], 2) for size in options.sizes}
        figures[f"times_{peer}"] = times(peer)
    return figures


def main() -> None:
    """Run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["open_clip"], help="measure this loader too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224], help="pixels per side of the model's input")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs to use; by default they are made from seeds")
    parser.add_argument("--batches", type=int, default=24, help=f"batches of {BATCH} samples, timed in each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "SIZE", "BATCHES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    figures: dict[str, Any]
    if options.measure:
        name, size, batches = options.measure
        figures = MEASUREMENTS[name](int(size), int(batches))
    else:
        figures = _speed(options)
    if options.json or options.measure:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
