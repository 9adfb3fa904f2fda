"""Samples of a split with decoded images, in the order of the index, a batch at a time.

Legend of suffixes: B batch, C H W image.
"""

import io
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.shards import records
from clips_pipeline.shards.check import DECODE_ERRORS
from clips_pipeline.shards.reader import RemoteShards, eval_samples
from clips_pipeline.shards.records import Record, SampleFields
from clips_pipeline.shards.transforms import ImageConfig, Pixels, UndecodableImageError, eval_pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalBatch:
    """Some samples to evaluate on; all lists have the length of the batch.

    Attributes:
        images_BCHW: uint8, 0 to 255.
        keys: of the samples.
        web: the web captions.
        synthetic: the synthetic captions.
        captions: the captions by people, none for some or all.
        labels: class numbers, None where there is none.
        skipped: images that could not be decoded, by reason; they are left out.
    """

    images_BCHW: Tensor  # noqa: N815
    keys: list[str]
    web: list[str]
    synthetic: list[str]
    captions: list[tuple[str, ...]]
    labels: list[int | None]
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


def eval_batches(
    index_dir: Path,
    split: str,
    image_config: ImageConfig,
    batch_size: int,
    *,
    fields: SampleFields | None = None,
    limit: int | None = None,
    remote: RemoteShards | None = None,
) -> Iterator[EvalBatch]:
    """Batches in the order of the index; the last one may be smaller.

    Args:
        index_dir: folder of `index.json`.
        split: which shards.
        image_config: resolution and framing.
        batch_size: samples per batch.
        fields: where the captions stand.
        limit: only the first so many samples.
        remote: where shards that are not on this machine are copied to.

    Raises:
        ConfigError: no index, no such split, or a shard that is missing or of another size than the index says.
    """
    return _batches(islice(eval_samples(index_dir, split, fields, remote=remote), limit), image_config, batch_size)


def _batches(samples: Iterator[Record], config: ImageConfig, batch_size: int) -> Iterator[EvalBatch]:
    done: list[tuple[Record, Pixels]] = []
    skipped: Counter[str] = Counter()
    for record in samples:
        try:
            with Image.open(io.BytesIO(record.image)) as image:
                pixels_CHW = eval_pixels(image, config)
        except (UndecodableImageError, *DECODE_ERRORS) as error:
            skipped[records.UNDECODABLE_IMAGE] += 1
            log.warning("left out: %s %s: %s", records.UNDECODABLE_IMAGE, record.key, error)
            continue
        if len(done) == batch_size:
            # Not before the next good sample is known: what is skipped on the way to it counts with this batch.
            yield _batch(done, skipped)
            done, skipped = [], Counter()
        done.append((record, pixels_CHW))
    if done:
        yield _batch(done, skipped)


def _batch(done: list[tuple[Record, Pixels]], skipped: Counter[str]) -> EvalBatch:
    found = [record for record, _ in done]
    return EvalBatch(
        torch.from_numpy(np.stack([pixels_CHW for _, pixels_CHW in done])),
        [record.key for record in found],
        [record.web_caption for record in found],
        [record.synthetic_caption for record in found],
        [record.captions for record in found],
        [record.label for record in found],
        dict(skipped),
    )
