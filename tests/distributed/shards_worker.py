"""One rank of test_shards_checked_once.py: run as `python shards_worker.py RANK RANKS STORE FOLDER MACHINES OUTPUT`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.distributed.ranks import process_group
from tests.unit.data.samples import LengthReader


def main(rank: int, ranks: int, store: str, folder: str, machines: int, output: str) -> None:
    """Open the shards of each case as a training does; write the error, and how many shards this rank looked at.

    With two machines, each rank has a copy of the shards of its own.
    """
    local = ranks // machines
    world = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
    os.environ.update({name: str(value) for name, value in world.items()})
    with process_group(rank, ranks, store):
        found = {
            case.name: open_shards(case / str(rank // local), rank, ranks) for case in sorted(Path(folder).iterdir())
        }
        Path(output).write_text(json.dumps(found))


def open_shards(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    from clips_pipeline.config import ConfigError
    from clips_pipeline.data.images.transforms import ImageConfig
    from clips_pipeline.data.loading.loader import train_loader
    from clips_pipeline.data.shards import index
    from clips_pipeline.training.training_run import check_shards_together

    looked: list[str] = []
    plain = index._find_problem

    def counting(shard: index.ShardEntry, folder: Path) -> str | None:
        looked.append(shard.path)
        return plain(shard, folder)

    index._find_problem = counting
    try:
        loader = train_loader(
            folder,
            "train",
            LengthReader(),  # type: ignore[arg-type]
            ImageConfig(size=8),
            global_batch_size=4,
            rank=rank,
            world_size=ranks,
            check=check_shards_together,
        )
        return {"error": None, "looked": len(looked), "keys": next(iter(loader)).keys}
    except ConfigError as error:
        return {"error": str(error), "looked": len(looked), "keys": []}
    finally:
        index._find_problem = plain


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), sys.argv[6])
