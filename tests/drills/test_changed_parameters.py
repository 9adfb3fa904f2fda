"""Resuming a training with changed parameters."""

from typing import Any

import pytest
from tests.integration.conftest import SpecOf

from clips_pipeline.config import ConfigError
from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.schedule import learning_rate

pytestmark = pytest.mark.slow


def test_changed_samples_and_intervals_apply_and_a_changed_seed_is_refused(spec_of: SpecOf) -> None:
    spec = spec_of("run")

    def stop(event: Event) -> None:
        if event["kind"] == "step" and event["step"] == 4:
            spec.stop_flag.touch()

    done = launch(spec, stop).step
    assert done < 9
    for wrong, message in (({"seed": 5}, "train.seed was 0 and is now 5"), ({"samples": 16}, "already trained")):
        changes: dict[str, Any] = wrong
        with pytest.raises((ConfigError, RuntimeError), match=message):
            launch(spec_of("run", **changes), lambda event: None)
    longer = spec_of("run", samples=12 * 8, every={"log": 2, "checkpoint": 3}, launch={"loader_workers": 1})
    assert launch(longer, lambda event: None).step == 12
    (changed,) = (event for event in read_all(spec.events) if event["kind"] == "changed")
    assert changed["step"] == done
    assert changed["values"] == {
        "train.every.checkpoint": [2, 3],
        "train.every.log": [1, 2],
        "train.launch.loader_workers": [0, 1],
        "train.samples": [72, 96],
    }
    rates = {event["step"]: event["learning_rate"] for event in read_all(spec.events) if event["kind"] == "step"}
    optimizer = spec.train.optimizer
    for step, rate in rates.items():
        # The logged rate is that of the next update.
        total = 9 if step <= done else 12
        floor, peak = optimizer.final_lr, optimizer.peak_lr
        assert rate == pytest.approx(learning_rate(step, peak=peak, total=total, warmup=2, floor=floor)), step
    assert set(rates) == {*range(1, done + 1), *(step for step in range(done + 1, 13) if step % 2 == 0)}
