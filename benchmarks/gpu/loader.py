"""Part `loader`: decoded and augmented images per second by the number of workers, then loader and step together.

The loader of a training, on seeded JPEGs of 512 pixels on the short side with the published augmentation, and captions as random
ids with their layout. Reading shards and tokenizing are not included (`benchmarks.loader` measures the whole loader on a CPU).
"""

import io
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.setup import Case, Inputs, attempt, device, fitting, optimizer_of, ours, synchronize, take_step
from benchmarks.step import batches
from clips_pipeline.data.images.transforms import ImageConfig, Pixels, normalize, train_pixels
from clips_pipeline.data.loading.batch import BatchPart
from clips_pipeline.data.loading.joint_loader import TrainLoader
from clips_pipeline.data.loading.rank_samples import RankSamples
from clips_pipeline.models.rows.layout import step_layout

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASE, SMOKE = Case("b16", 112, "mask", 512), Case("tiny", 64, "mask", 4)


class Images(RankSamples):
    """Batches of a case, for the loader of a training."""

    def __init__(self, case: Case, files: list[bytes], count: int) -> None:
        self.case, self.files, self.count = case, files, count
        self.images = ImageConfig(
            size=case.pixels, color_jitter=0.4, color_jitter_probability=0.8, grayscale_probability=0.2
        )
        _, *ids = next(batches(case.size, case.batch, case.pixels))
        self.web, self.fragment, self.target = (tensor.numpy().astype(np.int32) for tensor in ids)
        self.layout = partial(step_layout, case.config())

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of the images of a batch."""
        return self.case.batch, 3, self.case.pixels, self.case.pixels

    def positions(self) -> tuple[int, range]:
        """Return as many batches as were asked for."""
        return 0, range(self.count)

    def make_part(self, epoch: int, begin: int, rows: range, pixels_RCHW: Pixels) -> BatchPart:
        """Decode and augment the images of these rows."""
        keys = [str(begin * self.case.batch + row) for row in rows]
        for i, key in enumerate(keys):
            file = self.files[int(key) % len(self.files)]
            pixels_RCHW[i] = train_pixels(file, self.images, seed=0, epoch=epoch, key=key)
        return BatchPart((self.web[rows], self.fragment[rows], self.target[rows]), keys, {})


def measure(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield one line per number of workers, then the share of a step that waits, with the model compiled and not."""
    case = SMOKE if smoke else fitting(CASE)
    files = [_jpeg(seed) for seed in range(4 if smoke else 64)]
    for workers in (1,) if smoke else (1, 4, 8, 14):
        loader = _loader(case, files, workers, count=2 if smoke else 2 * workers)
        began, images = 0.0, 0
        for number, batch in enumerate(loader):
            if number == 0:
                began = time.perf_counter()  # the workers have started
            else:
                images += len(batch)
        yield {"workers": workers, "cores": os.cpu_count(), "images_per_s": images / (time.perf_counter() - began)}
    for compiled in (False,) if smoke else (True, False):
        run = partial(_together, case, files, 1 if smoke else 14, steps=2 if smoke else 20, compiled=compiled)
        yield {"case": case.name, "compiled": compiled, **attempt(run)}


def _loader(case: Case, files: list[bytes], workers: int, count: int) -> TrainLoader[Images]:
    samples = Images(case, files, count + 1)
    return TrainLoader(samples, workers, prefetch_batches=2, for_gpu=torch.cuda.is_available())


def _together(case: Case, files: list[bytes], workers: int, steps: int, *, compiled: bool) -> dict[str, Any]:
    model, loss_of = ours(case, compiled=compiled)
    optimizer, waited, began = optimizer_of(model), 0.0, 0.0
    warm_up = max(1, steps // 4)
    loader = iter(_loader(case, files, workers, steps + warm_up))
    for number in range(steps + warm_up):
        if number == warm_up:
            synchronize()
            began, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - asked
        batch = batch.to(device(), non_blocking=True)
        images = normalize(batch.images_BCHW, _MEAN, _STD)
        ids = (batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT)
        take_step(loss_of, optimizer, Inputs((images, *ids), batch.layout))
    synchronize()
    seconds = time.perf_counter() - began
    return {
        "workers": workers,
        "samples_per_s": steps * case.batch / seconds,
        "waiting_share": waited / seconds,
    }


def _jpeg(seed: int) -> bytes:
    """Return a JPEG of 683 x 512 pixels with smooth colors and some noise."""
    draws = np.random.default_rng(seed)
    coarse = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (683, 512), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, np.int16) + draws.integers(-12, 13, (512, 683, 3), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
