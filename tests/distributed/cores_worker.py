"""One rank of test_loader_workers.py: run as `python cores_worker.py RANK RANKS STORE OUTPUT`."""

import json
import os
import sys
from pathlib import Path

from tests.distributed.ranks import process_group


def main(rank: int, ranks: int, store: str, output: str) -> None:
    """Restrict this rank to some cores, and write how many it then has for itself."""
    world = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in world.items()})
    first, second, *_ = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {first} if rank == 0 else {first, second})
    with process_group(rank, ranks, store):
        from clips_pipeline.training.machine.cores import own_cores

        Path(output).write_text(json.dumps(own_cores()))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
