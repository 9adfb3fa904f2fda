"""Test scripts in several ranks, each a real process: `python SCRIPT RANK RANKS STORE ARGUMENT…`."""

import datetime
import faulthandler
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

REPOSITORY = Path(__file__).parents[2]
_SCRIPT_TIMEOUT_S = 180


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
            printed, _ = process.communicate(timeout=_SCRIPT_TIMEOUT_S)
            assert process.returncode == 0, printed
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@contextmanager
def process_group(rank: int, ranks: int, store: str) -> Iterator[None]:
    """Join the gloo process group at `store` for a block, then end the process; the block is the last thing a script does.

    The process ends without destructors: torch 2.7 destroys a group with the GIL held, and waits for threads of gloo, one of which
    may wait for the GIL to free a tensor of the last collective (pytorch/pytorch#154976, mended in 2.8). On a busy machine
    one script in 30 hung.
    """
    faulthandler.dump_traceback_later(_SCRIPT_TIMEOUT_S - 10, exit=True)  # a script that hangs says where
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )
    yield
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
