"""Small loaders, and comparisons of their batches."""

from pathlib import Path
from typing import Any

import torch
from tests.unit.data.samples import LengthReader, ListSource

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.records import Record

IMAGES = ImageConfig(size=8)
COUNT, BATCH = 46, 8


def make_shards(folder: Path, made: list[Record], tasks: int = 5) -> Path:
    """Prepare shards of these samples."""
    step = -(-len(made) // tasks)
    prepare(ListSource({"train": [list(made[at : at + step]) for at in range(0, len(made), step)]}), folder)
    return folder


def make_loader(folder: Path, **changes: Any) -> Any:
    """Return a loader with small windows and two streams."""
    options: dict[str, Any] = {
        "global_batch_size": BATCH,
        "seed": 3,
        "window_samples": 15,
        "max_streams": 2,
    }
    return train_loader(folder, "train", LengthReader(), IMAGES, **(options | changes))


def run_epoch(loader: Any, epoch: int = 0) -> list[ClipsBatch]:
    """Return all batches of an epoch."""
    loader.dataset.set_epoch(epoch)
    return list(loader)


def are_same(found: list[ClipsBatch], wanted: list[ClipsBatch]) -> bool:
    """Return whether all batches are equal."""
    return [batch.keys for batch in found] == [batch.keys for batch in wanted] and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(found, wanted, strict=True)
        for name in ("images_BCHW", "web_ids_BL", "fragment_ids_BL", "target_ids_BT")
    )


def join_ranks(ranks: list[list[ClipsBatch]]) -> list[ClipsBatch]:
    """Join the parts of all ranks to global batches, as a gather does."""
    return [
        ClipsBatch(
            torch.cat([part.images_BCHW for part in parts]),
            torch.cat([part.web_ids_BL for part in parts]),
            torch.cat([part.fragment_ids_BL for part in parts]),
            torch.cat([part.target_ids_BT for part in parts]),
            [key for part in parts for key in part.keys],
        )
        for parts in zip(*ranks, strict=True)
    ]
