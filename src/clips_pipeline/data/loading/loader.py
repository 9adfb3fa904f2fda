"""The torch DataLoader of training batches."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.dataset import TrainDataset
from clips_pipeline.data.loading.joint_loader import TrainLoader
from clips_pipeline.data.loading.order import MAX_STREAMS, WINDOW_SAMPLES, EpochOrder, choose_streams
from clips_pipeline.data.loading.stall_monitor import ReadClock
from clips_pipeline.data.shards.index import ShardEntry, check_shards
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.models.rows.layout import StepLayout
from clips_pipeline.text.caption_rows import CaptionReader


def train_loader(
    index_dir: Path,
    split: str,
    caption_reader: CaptionReader,
    image_config: ImageConfig,
    *,
    global_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    seed: int = 0,
    window_samples: int = WINDOW_SAMPLES,
    max_streams: int = MAX_STREAMS,
    prefetch_batches: int = 2,
    remote: ShardCache | None = None,
    layout: Callable[[Tensor, Tensor, Tensor], StepLayout] | None = None,
    check: Callable[[Sequence[ShardEntry], Path], None] = check_shards,
    colors_later: bool = False,
    for_gpu: bool = False,
) -> TrainLoader[TrainDataset]:
    """Return a torch DataLoader over `TrainDataset` (its `.dataset`); one iteration is one epoch or the rest of one.

    Call `.dataset.set_epoch(e)` before every epoch; loader workers are restarted for each epoch and read it then.

    Args:
        index_dir: folder of `index.json`.
        split: name of the split, usually `train`.
        caption_reader: converts captions to rows of token ids.
        image_config: resolution and augmentation.
        global_batch_size: samples of a step over all ranks.
        rank: rank of this process, from 0.
        world_size: number of ranks.
        workers: number of loader workers, at most one for each sample; 0 makes batches in this process.
        seed: seed of order and augmentation.
        window_samples: samples within which the order is shuffled, over all streams together (`order`).
        max_streams: upper bound on the streams of a global batch. More mix better; with fewer, a rank reads fewer shards.
        prefetch_batches: batches that the workers prepare ahead.
        remote: cache for shards that are not on this machine.
        layout: computes a batch's layout from its web, fragment and target ids; None leaves it to the model.
        colors_later: whether batches have the color changes of their images instead of changed images.
        for_gpu: whether batches are in page-locked memory, from which a GPU copies without waiting.
        check: raises a ConfigError if shards do not match the index. In a training, one rank of each machine looks.

    Raises:
        ConfigError: the global batch is not divisible by the ranks, the split has fewer samples than one global batch, or
            the shards do not match the index.
    """
    _check(global_batch_size, rank, world_size, workers)
    shards = ShardSet(index_dir, split, remote=remote, check=check)
    total = sum(shards.samples)
    streams = choose_streams(total, global_batch_size, window_samples, max_streams)
    order = EpochOrder(shards.samples, seed, window_samples, streams)
    _check_total(total, global_batch_size, split, index_dir)
    # Shards of the next window are opened while the last samples of this one are read.
    shards.max_open_files = order.max_open_shards + 8
    dataset = TrainDataset(
        shards,
        order,
        caption_reader,
        image_config,
        global_batch_size=global_batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        clock=ReadClock(workers),
        layout=layout,
        colors_later=colors_later,
    )
    return TrainLoader(dataset, min(workers, dataset.rank_batch_size), prefetch_batches, for_gpu=for_gpu)


def _check(global_batch_size: int, rank: int, world_size: int, workers: int) -> None:
    if global_batch_size < 1 or not 0 <= rank < world_size or workers < 0:
        raise ConfigError(
            f"global_batch_size {global_batch_size}, rank {rank} of {world_size}, workers {workers}: out of range"
        )
    if global_batch_size % world_size:
        raise ConfigError(f"the global batch of {global_batch_size} does not divide by {world_size} ranks; change one")


def _check_total(samples: int, global_batch_size: int, split: str, index_dir: Path) -> None:
    if samples < global_batch_size:
        raise ConfigError(
            f"split {split!r} in {index_dir} has {samples} samples, fewer than one global batch of "
            f"{global_batch_size}; lower the batch size or give more data"
        )
