"""Entry point of a rank: `python -m clips_pipeline.training.launch.worker_main RUN_SPEC.json`, one process per rank.

Under `torchrun --max-restarts` this may be a later attempt. After an error that would occur again, or an interrupt, every rank of
a later attempt ends at once, before it imports torch.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from clips_pipeline.config import ConfigError
from clips_pipeline.io.terminal import protect_output
from clips_pipeline.training.launch.failure import restart_reason
from clips_pipeline.training.launch.heartbeat import current_attempt, read_heartbeats
from clips_pipeline.training.run_spec import RunSpec, load_spec

GPU_DRIVER = Path("/dev/nvidiactl")
"""Exists on a machine with an NVIDIA driver."""


def main(arguments: list[str]) -> int:
    """Run a rank on the run spec that the only argument names; return its exit code."""
    protect_output()
    try:
        spec = load_spec(Path(arguments[0]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    reason = None
    if current_attempt() > 0:
        previous = read_heartbeats(Path(spec.run_folder), before_attempt=current_attempt())
        final = [heartbeat.final_exit_code for heartbeat in previous if heartbeat.final_exit_code is not None]
        if final:
            print(
                "not restarted: the previous attempt was interrupted or ended with an error that would occur again",
                file=sys.stderr,
            )
            return final[0]
        reason = restart_reason(previous)
    return load_rank()(spec, reason)


def load_rank() -> Callable[[RunSpec, str | None], int]:
    """Import torch and Composer, and return the function that runs a rank.

    The import creates some 5,000 modules. A garbage collection among them frees nothing and takes a tenth of the start, so the
    collector is off during the import and ignores these objects afterwards.
    """
    if GPU_DRIVER.exists():
        # Read by torch at its first allocation. The shapes of a step vary, and fixed segments would fragment the memory.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    gc.disable()
    from clips_pipeline.training.launch import worker

    gc.freeze()
    gc.enable()
    return cast(Callable[[RunSpec, str | None], int], worker.main)  # torch's decorator adds None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
