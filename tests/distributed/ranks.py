"""Test scripts in several ranks, each a real process: `python SCRIPT RANK RANKS STORE ARGUMENT…`."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

REPOSITORY = Path(__file__).parents[2]


def run_ranks(script: Path, ranks: int, store: Path, *arguments: object) -> None:
    """Run `script` in several ranks until it ends; `{rank}` in an argument becomes the number of the rank."""
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
    """Join the gloo process group at `store`; the script calls it."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
