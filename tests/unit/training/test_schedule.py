"""Learning rate against the authors' schedule, and its edge cases."""

import json

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.training.schedule import learning_rate, warmup_cosine


def test_published_schedules(golden_dir):
    schedules = json.loads((golden_dir / "schedule.json").read_text())["schedules"]
    assert len(schedules) >= 8
    for case in schedules:
        fraction = warmup_cosine(case["total_steps"], case["warmup_steps"], case["min_lr"] / case["peak_lr"])
        for step, rate in zip(case["steps"], case["lr"], strict=True):
            # The authors' schedule is float32, whose cosine is exact to about 1e-7 of the peak near its end.
            assert case["peak_lr"] * fraction(step) == pytest.approx(rate, rel=1e-6, abs=2e-7 * case["peak_lr"]), case[
                "name"
            ]


def test_the_first_update_has_rate_zero_under_warm_up_only():
    assert warmup_cosine(10, 2)(0) == 0.0
    assert warmup_cosine(10, 0)(0) == 1.0


def test_samples_or_steps_give_the_same_rate():
    by_steps = learning_rate(7, peak=1e-3, total=100, warmup=10)
    assert learning_rate(7 * 64, peak=1e-3, total=6400, warmup=640) == pytest.approx(by_steps)


def test_it_stays_at_its_floor_after_the_end():
    assert learning_rate(10**9, peak=1.0, total=100, warmup=10, floor=0.25) == 0.25
    assert warmup_cosine(5, 5)(5) == 0.0


@pytest.mark.parametrize("case", [(10, 11, 0.0), (0, 0, 0.0), (10, 1, 1.5), (10, -1, 0.0)])
def test_impossible_schedules_are_refused(case):
    with pytest.raises(ConfigError, match=r"warm-up|final learning rate"):
        warmup_cosine(*case)
