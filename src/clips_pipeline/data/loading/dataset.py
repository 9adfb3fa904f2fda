"""Training samples of one rank: the same order for any number of ranks and loader workers, with exact mid-epoch resume.

Epoch e orders all samples in C streams (`order.EpochOrder`). Global batch b of G samples takes the next G / C samples
of every stream, one stream after the other. Rank r of R takes the r-th of R equal parts of it. So the parts of all
ranks, in order, are the batch that a single process would read, and each rank reads only few streams. Loader worker w
of W makes rows w, w + W, … of each batch. All positions are computed, so resuming mid-epoch reads no data.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.color import ColorChanges, apply_changes
from clips_pipeline.data.images.transforms import ImageConfig, Pixels, random_view
from clips_pipeline.data.loading.batch import BatchPart
from clips_pipeline.data.loading.order import EpochOrder
from clips_pipeline.data.loading.rank_samples import RankSamples
from clips_pipeline.data.loading.stall_monitor import ReadClock
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.models.rows.layout import StepLayout
from clips_pipeline.text.caption_rows import CaptionReader, CaptionRows

log = logging.getLogger(__name__)

# Limit on consecutive bad samples; more indicate damaged data.
_MAX_TRIES = 1_000


class _Sample(NamedTuple):
    pixels_CHW: Pixels  # noqa: N815
    colors: ColorChanges
    rows: CaptionRows
    key: str


class TrainDataset(RankSamples):
    """Iterable dataset of whole batches of one rank, with Composer's protocol for resume. Created by `train_loader`."""

    def __init__(
        self,
        shards: ShardSet,
        order: EpochOrder,
        captions: CaptionReader,
        images: ImageConfig,
        *,
        global_batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        clock: ReadClock,
        layout: Callable[[Tensor, Tensor, Tensor], StepLayout] | None = None,
        colors_later: bool = False,
    ) -> None:
        self.shards, self.order, self.captions, self.images = shards, order, captions, images
        self.global_batch_size, self.rank, self.world_size, self.seed = global_batch_size, rank, world_size, seed
        self.clock, self.layout, self.colors_later = clock, layout, colors_later
        self.epoch = 0
        self.start = 0
        self._prefetched: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Return the number of batches in an epoch; samples that do not fill a batch appear in other epochs."""
        return self.order.stream_length // (self.global_batch_size // self.order.streams)

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch that the next iteration reads from its beginning; no effect for the current epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def state_dict(self, num_samples: int, from_beginning: bool = True) -> dict[str, Any]:
        """Return the state to resume from.

        Args:
            num_samples: number of samples, over all ranks, that the training has consumed.
            from_beginning: whether they are counted from the start of the epoch; otherwise from the start of the
                current iteration.
        """
        samples = num_samples if from_beginning else self.start + num_samples
        return {
            "epoch": self.epoch,
            "samples": samples,
            "seed": self.seed,
            "shards": self.shards.version,
            "streams": self.order.streams,
            "window": self.order.window,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume with any number of ranks and loader workers; the next iteration yields the rest of the epoch.

        Raises:
            ConfigError: the state belongs to other shards, another seed or other streams, so the order would differ.
        """
        mine = self.state_dict(0)
        for name in ("shards", "seed", "streams", "window"):
            if state[name] != mine[name]:
                raise ConfigError(
                    f"the checkpoint was made with {name} {state[name]}, now it is {mine[name]}, which gives another "
                    "order of samples; restore the former data and parameters (streams follow from the batch size), or "
                    "start a new training"
                )
        self.epoch, self.start = int(state["epoch"]), int(state["samples"])

    @property
    def rank_batch_size(self) -> int:
        """Number of samples of this rank in a batch."""
        return self.global_batch_size // self.world_size

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape of the images of a batch of this rank."""
        return self.rank_batch_size, 3, self.images.size, self.images.size

    def positions(self) -> tuple[int, range]:
        """Return the epoch of the next iteration, and where in every stream its batches begin."""
        per_stream = self.global_batch_size // self.order.streams
        start = self.start // self.order.streams
        batches = (self.order.stream_length - start) // per_stream
        return self.epoch, range(start, start + batches * per_stream, per_stream)

    def make_part(self, epoch: int, begin: int, rows: range, pixels_RCHW: Pixels) -> BatchPart:
        """Make some rows of this rank's part of a global batch, as `RankSamples` says."""
        first, per_stream = self.rank * self.rank_batch_size, self.global_batch_size // self.order.streams
        skipped = Counter[str]()
        if self.shards.remote is not None:
            streams = range(first // per_stream, -(-(first + self.rank_batch_size) // per_stream))
            self._prefetch_next_window(epoch, begin, streams)
        keys, made, colors = [], [], []
        for i, row in enumerate(rows):
            stream, place = divmod(first + row, per_stream)
            pixels_RCHW[i], changes, captions, key = self._sample(epoch, stream, begin + place, begin, skipped)
            colors.append(changes)
            made.append(captions)
            keys.append(key)
        ids = (
            np.array([row.web for row in made], np.int32),
            # (R, L), or (R, K, L) with several fragments of each image.
            np.array(
                [[row.fragment, *row.more_fragments] if row.more_fragments else row.fragment for row in made], np.int32
            ),
            np.array([row.target for row in made], np.int32),
        )
        colors_R9 = np.array([changes.to_row() for changes in colors], np.float32) if self.colors_later else None
        return BatchPart(ids, keys, dict(skipped), colors_R9)

    def _prefetch_next_window(self, epoch: int, start: int, streams: range) -> None:
        """Start downloading the shards of the next window while this one is read."""
        for stream in streams:
            window = epoch, start // self.order.window
            if self._prefetched.get(stream) != window:
                self._prefetched[stream] = window
                self.shards.prefetch(self.order.window_shards(epoch, stream, start + self.order.window))

    def _sample(self, epoch: int, stream: int, position: int, begin: int, skipped: Counter[str]) -> _Sample:
        """Return the sample at `position` of `stream`, or a replacement if it is bad.

        The replacement follows from the order and the data alone, so ranks need not communicate. The first candidate is
        one global batch later, then the samples after it; each further try uses the next stream, because an unreadable
        shard affects a whole window of its stream. Samples of the same batch, which begins at position `begin` of every
        stream, are tried last, because such a sample would be its own negative. Replacements are chosen independently:
        two bad samples of a batch may get the same one.
        """
        order, per_stream = self.order, self.global_batch_size // self.order.streams
        others = order.stream_length - per_stream  # positions of a stream outside this batch
        tries = 0
        for later in range(-1, min(order.stream_length * order.streams, _MAX_TRIES)):
            at = (stream, position)
            if later >= 0:
                turn, further = (stream + later) % order.streams, position - begin + later // order.streams
                if later < others * order.streams:
                    at = turn, (begin + per_stream + further % others) % order.stream_length
                elif (at := (turn, begin + (further - others) % per_stream)) == (stream, position):
                    continue
            tries += 1
            shard, row = order.locate(epoch, *at)
            try:
                return self._read(epoch, shard, row)
            except BadSampleError as bad:
                skipped[bad.skip.reason] += 1
                log.warning("skipped in %s: %s", self.shards.entries[shard].path, bad)
        raise ConfigError(
            f"{self.shards.folder}: {tries} samples in a row cannot be used ({dict(skipped)}); "
            "run `kedro run --pipelines prepare` or restore the data"
        )

    def _read(self, epoch: int, shard: int, row: int) -> _Sample:
        key = f"row {row}"
        try:
            self.clock.begin(shard)
            try:
                record = self.shards.read(shard, row)
            finally:
                self.clock.end()
            key = record.key
            pixels, colors = random_view(
                record.image, self.images, seed=self.seed, epoch=epoch, key=key, limits=record.limits
            )
            if not self.colors_later:
                pixels = apply_changes(pixels, colors)
            rows = self.captions.read(record.web_captions, record.synthetic_captions, epoch=epoch, key=key)
            return _Sample(pixels, colors, rows, key)
        except Exception as error:
            raise BadSampleError(make_skip(error, key)) from error
