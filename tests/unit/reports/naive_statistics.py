"""Statistics of prepared shards the slow way: every record read whole and counted one by one."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from clips_pipeline.shards.index import load_index
from clips_pipeline.shards.reader import eval_samples
from clips_pipeline.shards.records import Record
from clips_pipeline.shards.statistics import Histogram, SplitStatistics, Statistics


def count(records: Iterable[Record]) -> SplitStatistics:
    measures: dict[str, list[int]] = {}
    images, captions = set(), set()
    kept = same_image = same_caption = identical = 0
    for record in records:
        with Image.open(io.BytesIO(record.image)) as image:
            width, height = image.size
        values = {
            "image_width": width,
            "image_height": height,
            "image_aspect": round(1000 * width / height),
            "image_bytes": len(record.image),
        }
        for name, value in values.items():
            measures.setdefault(name, []).append(value)
        kept += 1
        same_image += record.image in images
        same_caption += record.web_caption in captions
        identical += record.web_caption == record.synthetic_caption
        images.add(record.image)
        captions.add(record.web_caption)
    return SplitStatistics(
        kept=kept,
        shards=1,
        duplicate_images=same_image,
        duplicate_captions=same_caption,
        identical_captions=identical,
        histograms={name: Histogram.of(np.array(values)) for name, values in measures.items()},
    )


def statistics_of(folder: Path) -> Statistics:
    index = load_index(folder)
    return Statistics(index.fingerprint, {split: count(eval_samples(folder, split)) for split in index.splits})
