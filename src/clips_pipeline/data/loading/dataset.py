"""Training samples of one rank: the same order for any number of ranks and loader workers, with exact mid-epoch resume.

Epoch e orders all samples in C streams (`order.EpochOrder`). Global batch b of G samples takes the next G / C samples
of every stream, one stream after the other. Rank r of R takes the r-th of R equal parts of it. So the parts of all
ranks, in order, are the batch that a single process would read, and each rank reads only few streams. Loader worker w
of W makes batches w, w + W, …, and torch's DataLoader takes them in turn. All positions are computed, so resuming
mid-epoch reads no data.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.color import ColorChanges, apply_changes
from clips_pipeline.data.images.transforms import ImageConfig, Pixels, UndecodableImageError, random_view
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.data.loading.order import EpochOrder
from clips_pipeline.data.loading.stall_monitor import ReadClock
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Skip
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


class TrainDataset(IterableDataset[ClipsBatch]):
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

    def __iter__(self) -> Iterator[ClipsBatch]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # Captured here, because `set_epoch` may be called before the last batch is requested.
        epoch, start, per_stream = (
            self.epoch,
            self.start // self.order.streams,
            self.global_batch_size // self.order.streams,
        )
        batches = (self.order.stream_length - start) // per_stream
        return (self._batch(epoch, start + number * per_stream) for number in range(first, batches, step))

    def _batch(self, epoch: int, start: int) -> ClipsBatch:
        """Return this rank's part of the global batch that begins at position `start` of every stream."""
        count = self.global_batch_size // self.world_size
        per_stream = self.global_batch_size // self.order.streams
        size, skipped = self.images.size, Counter[str]()
        if self.shards.remote is not None:
            self._prefetch_next_window(
                epoch, start, range(self.rank * count // per_stream, -(-(self.rank + 1) * count // per_stream))
            )
        images_BCHW = _shared_images(count, size)
        pixels_BCHW = images_BCHW.numpy()
        keys, rows, colors = [], [], []
        for i in range(count):
            stream, place = divmod(self.rank * count + i, per_stream)
            pixels_BCHW[i], changes, row, key = self._sample(epoch, stream, start + place, start, skipped)
            colors.append(changes)
            rows.append(row)
            keys.append(key)
        ids = (
            _ids([row.web for row in rows]),
            # (B, L), or (B, K, L) with several fragments of each image.
            _ids([[row.fragment, *row.more_fragments] if row.more_fragments else row.fragment for row in rows]),
            _ids([row.target for row in rows]),
        )
        layout = None if self.layout is None else self.layout(*ids)
        colors_B9 = torch.tensor([changes.to_row() for changes in colors]) if self.colors_later else None
        return ClipsBatch(images_BCHW, *ids, keys, dict(skipped), layout, colors_B9)

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
        except UndecodableImageError as error:
            raise BadSampleError(Skip(error.reason, key, str(error))) from None
        except Exception as error:
            raise BadSampleError(make_skip(error, key)) from error


def _ids(rows: list[Any]) -> Tensor:
    # Through NumPy, which converts nested lists four times as fast as torch.
    return torch.from_numpy(np.array(rows, np.int64))


def _shared_images(count: int, size: int) -> Tensor:
    """Allocate (count, 3, size, size) uint8; in a loader worker, shared memory, so that the trainer copies nothing."""
    shape = (count, 3, size, size)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(count * 3 * size * size, device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
