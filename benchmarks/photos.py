"""Shards of photo-like JPEGs for the benchmarks, made from seeds or from a folder of photos."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clips_pipeline.data.scenes.source import ScenesConfig, scene_sample
from clips_pipeline.data.shards import sample_offsets
from clips_pipeline.data.shards.index import Index, load_index
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.data.shards.tar_file import TarFile
from clips_pipeline.data.shards.writer import make_sample, write_samples

SHORT_SIDE = 512
QUALITY = 85
_CAPTIONS = ScenesConfig()


def photo(seed: int) -> bytes:
    """Return a JPEG of 683 x 512 pixels (every third one upright) and about 83 kB.

    It resembles a photo in what matters for a decoder: amplitudes fall with frequency as in natural images, colors have
    less detail than brightness, and chroma is stored at half the resolution.
    """
    draws = np.random.default_rng(seed)
    width, height = (SHORT_SIDE, 683) if seed % 3 == 0 else (683, SHORT_SIDE)
    gray, warm, green = (_field(draws, slope) for slope in (1.4, 1.7, 1.7))
    pixels_HWC = (
        draws.uniform(90, 150)
        + 56 * gray[..., None] * np.ones(3)
        + 60 * warm[..., None] * np.array([0.35, 0.0, -0.35])
        + 60 * green[..., None] * np.array([-0.15, 0.2, -0.15])
    )[:height, :width]
    return _jpeg(Image.fromarray(np.clip(pixels_HWC, 0, 255).astype(np.uint8)))


def enlarged(file: Path) -> bytes:
    """Return a photo as a JPEG with a short side of 512 px; noise replaces the detail that a small photo lacks."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels_HWC = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    if scale > 1.0:
        pixels_HWC = pixels_HWC + np.random.default_rng(0).normal(0, 8, pixels_HWC.shape)
    return _jpeg(Image.fromarray(np.clip(pixels_HWC, 0, 255).astype(np.uint8)))


def make_shards(folder: Path, photos: Path | None, image_count: int, samples: int, per_shard: int) -> Index:
    """Write `samples` samples into the split `train` under `folder`, unless it already holds exactly these.

    Args:
        folder: folder of the index.
        photos: a folder of JPEGs to use; None makes them from seeds.
        image_count: number of different images; samples share them, but have captions of their own.
        samples: number of samples.
        per_shard: samples per tar file.
    """
    wanted = json.dumps([str(photos), image_count, samples, per_shard, QUALITY])
    mark = folder / "made.json"
    if not mark.is_file() or mark.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "train").mkdir(parents=True)
        if photos is None:
            images = [photo(seed) for seed in range(image_count)]
        else:
            images = [enlarged(file) for file in sorted(photos.glob("*.jpg"))[:image_count]]
        names = [f"train/{number:05d}.tar" for number in range(samples // per_shard)]
        shards = [
            write_samples(folder / name, map(make_sample, _records(images, number * per_shard, per_shard)), name)
            for number, name in enumerate(names)
        ]
        Index("benchmark", {"train": tuple(shards)}, {}).save(folder)
        sample_offsets.save(folder, (sample_offsets.to_bytes(TarFile(folder / name).spans) for name in names))
        mark.write_text(wanted)
    return load_index(folder)


def _records(images: list[bytes], start: int, count: int) -> Iterator[Record]:
    for number in range(start, start + count):
        sample = scene_sample(_CAPTIONS, "train", number)
        yield Record(
            f"{number:09d}", images[number % len(images)], "jpg", (sample.web.text,), (Caption(sample.synthetic.text),)
        )


def _field(draws: np.random.Generator, slope: float) -> NDArray[np.float64]:
    """Return 768 x 768 values of mean 0 and deviation 1 whose amplitudes fall as frequency ** -slope."""
    side = 768
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    waves = (draws.normal(size=frequency.shape) + 1j * draws.normal(size=frequency.shape)) * frequency**-slope
    values = np.fft.irfft2(waves, (side, side))
    return np.asarray(values / values.std())


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
