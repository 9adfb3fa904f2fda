"""Composer logger that writes the event log: logged metrics become `step`, `skips` and `evaluation` events."""

import re
from collections.abc import Callable
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination

from clips_pipeline.training.events.event_log import EventWriter

LOSS = "loss/train/"  # prefix of Composer
LEARNING_RATE = re.compile(r"lr-\w+/group0")  # key of Composer's LRMonitor, with the name of the optimizer's class
SPEED = "throughput/samples_per_sec"  # key of Composer's SpeedMonitor
VALIDATION = "metrics/validation/"
SKIPPED = "samples/skipped/"
TRACE = "samples/trace"
DATA_WAIT = "time/data_wait_fraction"
LOGIT_SCALE = "logit_scale"


DueCheck = Callable[[State], bool]
"""Whether something is due after the step that has just ended."""


def due_every(interval: int, last_step: int) -> DueCheck:
    """Return a check that is true at multiples of `interval` and at `last_step`, not where a run is stopped earlier."""

    def is_due(state: State) -> bool:
        step = int(state.timestamp.batch)
        return step % interval == 0 or step == last_step

    return is_due


class EventLogger(LoggerDestination):  # type: ignore[misc]
    """Writes the metrics of Composer's `Logger` to the event log, on rank 0.

    Args:
        writer: the event log.
        is_due: whether a `step` event is written; callbacks that log its values use the same check.
    """

    def __init__(self, writer: EventWriter, is_due: DueCheck) -> None:
        self.writer, self.is_due = writer, is_due
        self._latest: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep the latest value of each metric for the next `step` event; write held-out metrics at once as `evaluation`."""
        self._latest.update(metrics)
        held_out = _without_prefix(metrics, VALIDATION)
        if held_out:
            self.writer.write("evaluation", step=step, samples=metrics["time/sample"], metrics=held_out)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step if it is due. Composer calls loggers after all other callbacks."""
        if not self.is_due(state):
            return
        step, samples, latest = int(state.timestamp.batch), int(state.timestamp.sample), self._latest
        # SpeedMonitor logs nothing until its window is full, at the start and after a resume.
        average = samples / max(state.timestamp.total_wct.total_seconds(), 1e-9)
        self.writer.write(
            "step",
            step=step,
            samples=samples,
            losses=_without_prefix(latest, LOSS),
            # A model without a text tower has no scale.
            **({LOGIT_SCALE: latest[LOGIT_SCALE]} if LOGIT_SCALE in latest else {}),
            learning_rate=next(value for key, value in latest.items() if LEARNING_RATE.fullmatch(key)),
            samples_per_s=latest.get(SPEED, average),
            data_wait_fraction=latest[DATA_WAIT],
            trace=latest[TRACE],
        )
        skipped = _without_prefix(latest, SKIPPED)
        if skipped:
            self.writer.write("skips", step=step, counts=skipped)


def _without_prefix(metrics: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
