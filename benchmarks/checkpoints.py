"""Seconds for which a step waits for a checkpoint: written in the background, and by the step itself.

    python -m benchmarks.checkpoints [--size s16] [--steps 12] [--every 4] [--json]

Trains a named size at 32 pixels with one sample for each of two negatives, on one CPU rank, once with each value of
`train.launch.background_checkpoints`. The figures are those of the `checkpoint` events, means over all checkpoints: `waited` is how
long the step took longer, `seconds` is the time until the checkpoint was on the disk.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.overhead import prepare_data


def measure(data: Path, size: str, steps: int, every: int, *, background: bool) -> dict[str, float]:
    """Run one training and return its figures."""
    from clips_pipeline.config import from_mapping
    from clips_pipeline.data.shards.index import load_index
    from clips_pipeline.training.config import TrainConfig
    from clips_pipeline.training.events.event_log import read_all
    from clips_pipeline.training.launch.launcher import launch
    from clips_pipeline.training.run_spec import RunSpec

    parameters = {
        "model": {"size": size, "image_size": 32},
        "samples": steps * 2,
        "batch_size": 2,
        "optimizer": {"warmup_samples": 0},
        "every": {"log": 1, "evaluate": 10 * steps, "checkpoint": every, "keep_checkpoints": 1, "caption_examples": 0},
        "launch": {"device": "cpu", "background_checkpoints": background},
    }
    spec = RunSpec(
        from_mapping(TrainConfig, parameters, "train"),
        shards=str(data / "shards"),
        tokenizer=str(data / "tokenizer"),
        run_folder=str(data / f"run-{background}"),
        model_folder=str(data / f"model-{background}"),
        data_version=load_index(data / "shards").version,
    )
    launch(spec, lambda event: None)
    events = list(read_all(spec.events))
    saved = [event for event in events if event["kind"] == "checkpoint"]
    times = [event["time"] for event in events if event["kind"] == "step"]
    state = max(file.stat().st_size for file in Path(spec.checkpoints).glob("ba*/state.pt"))
    return {
        "checkpoints": len(saved),
        "state_gb": state / 1e9,
        "waited_s": statistics.mean(event["waited"] for event in saved),
        "written_after_s": statistics.mean(event["seconds"] for event in saved),
        "whole_s": times[-1] - times[0],
    }


def main() -> None:
    """Run both trainings and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="s16", help="named size")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="steps between two checkpoints")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as folder:
        prepare_data(Path(folder), 64)
        for background in (True, False):
            found = measure(Path(folder), options.size, options.steps, options.every, background=background)
            figures = {"background": background, **{name: round(value, 2) for name, value in found.items()}}
            print(json.dumps(figures) if options.json else figures, flush=True)


if __name__ == "__main__":
    main()
