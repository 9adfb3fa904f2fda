"""Events from the metrics that callbacks and Composer's monitors log."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from composer.core import State, Timestamp

from clips_pipeline.training.events.event_log import EventWriter, read_all
from clips_pipeline.training.events.event_logger import EventLogger, due_every

LOGGED: dict[str, Any] = {
    "loss/train/total": 3.0,
    "loss/train/contrastive": 1.0,
    "lr-AdamW/group0": 0.5,
    "logit_scale": 14.0,
    "time/data_wait_fraction": 0.25,
    "samples/trace": "00ff",
    "time/batch_in_epoch": 3,
}


class StateAt(State):  # type: ignore[misc]
    """A state with only a timestamp."""

    def __init__(self, step: int) -> None:
        self.timestamp = Timestamp(batch=step, sample=8 * step, total_wct=timedelta(seconds=2))


def test_due_steps_are_written_with_the_latest_metrics(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as writer:
        logger = EventLogger(writer, due_every(4, 10))
        for step in range(1, 11):
            logger.log_metrics(LOGGED | {"loss/train/total": float(step)}, step - 1)
            if step >= 8:
                logger.log_metrics({"throughput/samples_per_sec": 77.0, "samples/skipped/too small": 2}, step)
            logger.batch_end(StateAt(step), None)
    events = [
        {key: value for key, value in event.items() if key != "time"} for event in read_all(tmp_path / "events.jsonl")
    ]
    assert [(event["kind"], event["step"]) for event in events] == [
        ("step", 4),
        ("step", 8),
        ("skips", 8),
        ("step", 10),
        ("skips", 10),
    ]
    first = {
        "kind": "step",
        "step": 4,
        "samples": 32,
        "losses": {"total": 4.0, "contrastive": 1.0},
        "logit_scale": 14.0,
        "learning_rate": 0.5,
        "samples_per_s": 16.0,  # the monitor has said nothing yet
        "data_wait_fraction": 0.25,
        "trace": "00ff",
    }
    assert events[0] == first
    assert events[1]["samples_per_s"] == 77.0
    assert events[2]["counts"] == {"too small": 2}


def test_held_out_metrics_are_written_at_once(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as writer:
        logger = EventLogger(writer, due_every(4, 10))
        logger.log_metrics({"time/sample": 24, "metrics/validation/mean_recall@1": 0.5}, 3)
    (event,) = read_all(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"], event["samples"]) == ("evaluation", 3, 24)
    assert event["metrics"] == {"mean_recall@1": 0.5}
