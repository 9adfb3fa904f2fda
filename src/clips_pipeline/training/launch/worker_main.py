"""The entry point of a rank: `python -m clips_pipeline.training.launch.worker_main RUN_SPEC.json`, one process for each.

Under torchrun's `--max-restarts` this may be a later attempt. An error that would come again, and a training that was asked to
end, are not tried again: every rank then ends at once, before anything is loaded.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.training.launch.failure import restart_reason
from clips_pipeline.training.launch.heartbeat import attempt, read_heartbeats
from clips_pipeline.training.run_spec import RunSpec, load_spec


def main(arguments: list[str]) -> int:
    """Load the rank and run it on the spec that the one argument names; returns its exit code."""
    try:
        spec = load_spec(Path(arguments[0]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    reason = None
    if attempt() > 0:
        before = read_heartbeats(Path(spec.run_folder), before=attempt())
        final = [sign.final for sign in before if sign.final is not None]
        if final:
            print("not started again: the attempt before ended for good", file=sys.stderr)
            return final[0]
        reason = restart_reason(before)
    return load_rank()(spec, reason)


def load_rank() -> Callable[[RunSpec, str | None], int]:
    """Load torch and Composer, and return what runs a rank.

    Loading Composer makes some 5,000 modules. Looking for garbage among them finds none and takes a tenth of the start, so the
    collector rests meanwhile, and afterwards never looks at them again.
    """
    gc.disable()
    from clips_pipeline.training.launch import worker

    gc.freeze()
    gc.enable()
    return worker.main


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
