"""Quality of the shuffle: the loader's order, the shuffle buffer of a plain webdataset pipeline, and a uniform shuffle.

    python -m benchmarks.shuffle [--shards N] [--samples-per-shard N] [--batch-size N] [--json]

Three values per order, over the batches of an epoch:

- shards_per_batch: number of shards in a global batch (mean);
- largest_fraction: fraction of a batch that comes from one shard (mean of the largest per batch);
- neighbors_together: fraction of samples whose successor in their shard is in the same batch.

No file is read: an order is a function of the number of samples per shard.
"""

import argparse
import json
import random
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.loading.order import WINDOW_SAMPLES, EpochOrder, choose_streams

BUFFER = 5_000  # open_clip's sample buffer, in every worker


def ours(samples: list[int], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield global batches as the loader makes them; samples are numbered over all shards."""
    order = EpochOrder(samples, 0, streams=choose_streams(sum(samples), size, WINDOW_SAMPLES))
    first = np.concatenate([[0], np.cumsum(samples)])
    each = size // order.streams
    for start in range(0, order.stream_length - each + 1, each):
        places = [order.locate(0, stream, start + i) for stream in range(order.streams) for i in range(each)]
        yield np.array([first[shard] + row for shard, row in places])


def buffered(samples: list[int], size: int, workers: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of shuffled shards, distributed over workers with a buffer each; a batch takes from all workers."""
    draws = random.Random(0)  # noqa: S311 - not used for security
    first = np.concatenate([[0], np.cumsum(samples)])
    shards = list(range(len(samples)))
    draws.shuffle(shards)

    def worker(number: int) -> Iterator[int]:
        buffer: list[int] = []
        for shard in shards[number::workers]:
            for sample in range(first[shard], first[shard + 1]):
                if len(buffer) < BUFFER:
                    buffer.append(sample)
                    continue
                at = draws.randrange(BUFFER)
                yield buffer[at]
                buffer[at] = sample
        draws.shuffle(buffer)
        yield from buffer

    running = [worker(number) for number in range(workers)]
    each = size // workers
    while True:
        batch = [sample for one in running for sample in (next(one, -1) for _ in range(each))]
        if -1 in batch:
            return
        yield np.array(batch)


def uniform(samples: list[int], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield batches of a uniform shuffle of all samples."""
    every = np.random.default_rng(0).permutation(sum(samples))
    for start in range(0, len(every) - size + 1, size):
        yield every[start : start + size]


def measure(batches: Iterator[NDArray[np.int64]], samples: list[int]) -> dict[str, float]:
    """Return the three values."""
    first = np.concatenate([[0], np.cumsum(samples)])
    batch_of = np.full(first[-1], -1)
    per_batch, largest = [], []
    for number, batch in enumerate(batches):
        counts = np.bincount(np.searchsorted(first, batch, side="right") - 1)
        per_batch.append(np.count_nonzero(counts))
        largest.append(counts.max() / len(batch))
        batch_of[batch] = number
    inner = np.setdiff1d(np.arange(first[-1] - 1), first[1:] - 1)
    inner = inner[batch_of[inner] >= 0]
    together = float(np.mean(batch_of[inner] == batch_of[inner + 1]))
    return {
        "shards_per_batch": round(float(np.mean(per_batch)), 1),
        "largest_fraction": round(float(np.mean(largest)), 4),
        "neighbors_together": round(together, 5),
    }


def main() -> None:
    """Measure all orders and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=600)
    parser.add_argument("--samples-per-shard", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=4_096)
    parser.add_argument("--workers", type=int, default=32, help="ranks times loader workers of the buffered pipeline")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    samples, size = [options.samples_per_shard] * options.shards, options.batch_size
    orders = {
        "clips-pipeline": ours(samples, size),
        f"buffer of {BUFFER} x {options.workers}": buffered(samples, size, options.workers),
        "uniform": uniform(samples, size),
    }
    figures = {name: measure(batches, samples) for name, batches in orders.items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, numbers in figures.items():
        print(f"{name:24}", "  ".join(f"{key} {value:g}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
