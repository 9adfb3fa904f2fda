"""Where a training process begins: `python -m clips_pipeline.training.start SPEC.json`, one for each rank, whoever starts it.

Loading Composer makes some 5,000 modules. Looking for garbage among them finds none and takes a tenth of the start, so the
collector rests meanwhile, and afterwards never looks at them again.
"""

import gc
import sys


def main(arguments: list[str]) -> int:
    """Load the rank and run it on the spec that the one argument names; returns its exit code."""
    gc.disable()
    from clips_pipeline.training import rank

    gc.freeze()
    gc.enable()
    return rank.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
