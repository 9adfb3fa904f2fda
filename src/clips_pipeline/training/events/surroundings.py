"""What surrounds a training besides its parameters: machine, versions, code. Recorded at every start; decides nothing.

`kedro compare --runs` reads it to say why two runs with the same parameters give other figures.
"""

import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

CODE_STATE = "CLIPS_CODE_STATE"
"""Environment variable of the ranks: `commit`, `dirty` and `patch` (a digest) of the checkout, as JSON."""

_CPU_INFO = Path("/proc/cpuinfo")
_CPU_NAMES = ("model name", "Hardware", "cpu model")


def surroundings(device: str, ranks: int, ranks_here: int, threads: int, workers: int) -> dict[str, Any]:
    """Return plain values for the `start` event. Imports torch.

    Args:
        device: "cpu" or "gpu".
        ranks: number of ranks on all machines.
        ranks_here: number of ranks on this machine.
        threads: torch threads of this rank.
        workers: loader workers of this rank.
    """
    import torch

    gpus = (
        [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if device == "gpu" else []
    )
    return {
        "hardware": {
            "device": device,
            "ranks": ranks,
            "ranks on a machine": ranks_here,
            "threads of a rank": threads,
            "loader workers of a rank": workers,
            "GPUs": gpus,
            "CPU": cpu_name(),
            "cores": os.cpu_count(),
            "memory in GiB": round(psutil.virtual_memory().total / 2**30, 1),
            "host": socket.gethostname(),
        },
        "versions": {
            "Python": platform.python_version(),
            "CUDA": torch.version.cuda,
            "system": platform.platform(),
            "packages": installed_packages(),
        },
        "git": json.loads(os.environ.get(CODE_STATE, "{}")),
    }


def cpu_name() -> str:
    """Return the model of the processor, or its architecture where the system does not say."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in _CPU_NAMES)
    return next(found, platform.processor() or platform.machine())


def installed_packages() -> dict[str, str]:
    """Return the version of every installed package, from the names of their folders: their metadata takes a second to read."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for path in sorted(Path(folder or ".").glob("*.dist-info")):
            name, _, version = path.name.removesuffix(".dist-info").partition("-")
            # The first one on the path is imported.
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), version)
    return dict(sorted(found.items()))
