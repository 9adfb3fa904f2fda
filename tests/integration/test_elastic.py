"""One training in turn on 1, 2 and 4 gloo ranks: the samples of every step and the losses of one process without a break."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf, losses

from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

STEPS, PHASE = 30, 8
"""Steps of the training (five epochs of six batches), and steps after which it is stopped to change the number of ranks."""
# State that has to survive the change besides weights and optimizer: the moving average, and what is drawn for a step.
CHANGES: dict[str, Any] = {
    "samples": STEPS * 8,
    "ema": {"half_life_batches": 2},
    "optimizer": {"clip_norm": 0.5, "warmup_samples": 16},
    "model": {"patch_dropout": 0.25},
    "augment": {"color_jitter": 0.4, "crop_area": [0.5, 1.0]},
    "every": {"log": 1, "evaluate": 100, "checkpoint": 100},
}


def train_for(spec: RunSpec, steps: int | None) -> bool:
    """Train, for about this many more steps; return whether the training is finished."""
    begun = len(steps_of(spec)) if spec.events.exists() else 0

    def stop(event: Event) -> None:
        if steps is not None and event["kind"] == "step" and event["step"] >= begun + steps:
            spec.stop_flag.touch()

    return launch(spec, stop).finished


def steps_of(spec: RunSpec) -> list[Event]:
    return [event for event in read_all(spec.events) if event["kind"] == "step"]


def test_a_training_goes_on_with_1_2_and_4_ranks_in_turn(spec_of: SpecOf) -> None:
    whole = spec_of("whole", **CHANGES)
    assert train_for(whole, None)
    for ranks, steps in ((1, PHASE), (2, PHASE), (4, None)):
        spec = spec_of("elastic", **CHANGES, launch={"processes": ranks, "loader_workers": 1 if ranks == 1 else "auto"})
        assert train_for(spec, steps) == (steps is None)

    starts = [event for event in read_all(spec.events) if event["kind"] == "start"]
    assert [event["hardware"]["ranks"] for event in starts] == [1, 2, 4]
    assert [event["hardware"]["loader workers of a rank"] for event in starts] == [1, 0, 0]
    # Every step once: a stop loses none and repeats none.
    assert [event["step"] for event in steps_of(spec)] == list(range(1, STEPS + 1))
    # The trace is a checksum of all samples so far, each with its step.
    assert [event["trace"] for event in steps_of(spec)] == [event["trace"] for event in steps_of(whole)]
    alone, changed = losses(whole), losses(spec)
    assert changed == pytest.approx(alone, rel=2e-4)
    assert len(set(alone.values())) == STEPS
    # The model is the average, which has its own state.
    expected, found = (load_file(Path(one.model_folder) / "model.safetensors") for one in (whole, spec))
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    assert difference < 1e-6 * sum(float(value.square().sum()) for value in expected.values())
