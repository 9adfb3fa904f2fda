"""The event log as a destination of Composer's loggers: what callbacks log becomes `step`, `skips` and `evaluation` events."""

from collections.abc import Callable
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination

from clips_pipeline.training.events.event_log import EventWriter

LOSS = "loss/train/"  # Composer's own prefix
LEARNING_RATE = "lr-AdamW/group0"  # of Composer's LRMonitor
SPEED = "throughput/samples_per_sec"  # of Composer's SpeedMonitor
VALIDATION = "metrics/validation/"
SKIPPED = "samples/skipped/"
TRACE = "samples/trace"
DATA_WAIT = "time/data_wait_share"
LOGIT_SCALE = "logit_scale"


Due = Callable[[State], bool]


def every(interval: int, last: int) -> Due:
    """Whether the step that has ended is a multiple of `interval`, or the run's last. One that is stopped earlier is not."""

    def is_due(state: State) -> bool:
        step = int(state.timestamp.batch)
        return step % interval == 0 or step == last

    return is_due


class EventLogger(LoggerDestination):  # type: ignore[misc]
    """Writes what Composer's `Logger` is given to the event log, on rank 0.

    Args:
        writer: the event log.
        due: whether a step is written; the callbacks that log what it needs have the same.
    """

    def __init__(self, writer: EventWriter, due: Due) -> None:
        self.writer, self.due = writer, due
        self._latest: dict[str, Any] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Keep the latest of each for the next `step` event; held-out metrics are an event of their own, at once."""
        self._latest.update(metrics)
        held_out = _below(metrics, VALIDATION)
        if held_out:
            self.writer.write("evaluation", step=step, samples=metrics["time/sample"], metrics=held_out)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step when due. Composer calls loggers after all other callbacks."""
        if not self.due(state):
            return
        step, samples, latest = int(state.timestamp.batch), int(state.timestamp.sample), self._latest
        # The monitor's window is not full at the beginning, nor just after a resume.
        average = samples / max(state.timestamp.total_wct.total_seconds(), 1e-9)
        self.writer.write(
            "step",
            step=step,
            samples=samples,
            losses=_below(latest, LOSS),
            logit_scale=latest[LOGIT_SCALE],
            learning_rate=latest[LEARNING_RATE],
            samples_per_s=latest.get(SPEED, average),
            data_wait_share=latest[DATA_WAIT],
            trace=latest[TRACE],
        )
        skipped = _below(latest, SKIPPED)
        if skipped:
            self.writer.write("skips", step=step, counts=skipped)


def _below(metrics: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
