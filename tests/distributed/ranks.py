"""Scripts of tests, each rank a real process: `python SCRIPT RANK RANKS STORE ARGUMENT…`."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

REPOSITORY = Path(__file__).parents[2]


def run_ranks(script: Path, ranks: int, store: Path, *arguments: object) -> None:
    """Run `script` on that many ranks to its end; `{rank}` in an argument becomes the rank's number."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(ranks):
        own = [str(argument).replace("{rank}", str(rank)) for argument in arguments]
        command = [sys.executable, str(script), str(rank), str(ranks), str(store), *own]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=180)
            assert process.returncode == 0, printed
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def join(rank: int, ranks: int, store: str) -> None:
    """Become one of the gloo ranks that meet at `store`; called by the script."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
