"""`train.launch.loader_workers: auto`: as many loader workers as the images call for and the cores of this rank allow."""

from collections.abc import Sequence
from typing import Literal

from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.training.machine.cores import own_cores

SMALL_SAMPLE_BYTES = 16_384
"""Mean bytes of a sample in its shard, up to which its image is small: those of the embedded data have 5,700, photos 80,000."""
MOST_WORKERS = 14
"""A worker makes about 350 samples a second of photos, and no GPU is predicted to train more than 5,000."""
MOST_WORKERS_OF_SMALL_IMAGES = 2


def choose_workers(cores: float, sample_bytes: float, *, on_gpu: bool) -> int:
    """Return the number of loader workers of one rank.

    On a CPU, the training itself uses all cores, and a step takes longer than loading its batch: one worker for photos where
    there is a second core, none for small images. On a GPU, all cores but one, which starts the kernels.

    Args:
        cores: cores of this rank (`cores_of_rank`).
        sample_bytes: mean bytes of a sample in its shard.
        on_gpu: whether this rank trains on a GPU.
    """
    small = sample_bytes <= SMALL_SAMPLE_BYTES
    # Shares such as 3 x 1/3 may add up to a little less than a whole core.
    spare = int(cores + 1e-6) - 1
    if not on_gpu:
        return 0 if small or spare < 1 else 1
    return max(1, min(spare, MOST_WORKERS_OF_SMALL_IMAGES if small else MOST_WORKERS))


def resolve_workers(configured: int | Literal["auto"], shards: Sequence[ShardEntry], *, on_gpu: bool) -> int:
    """Return the number of loader workers of this rank. A collective operation for "auto".

    Args:
        configured: `train.launch.loader_workers`.
        shards: the training shards.
        on_gpu: whether this rank trains on a GPU.
    """
    if configured != "auto":
        return configured
    total = sum(shard.samples for shard in shards)
    return choose_workers(own_cores(), sum(shard.bytes for shard in shards) / max(total, 1), on_gpu=on_gpu)
