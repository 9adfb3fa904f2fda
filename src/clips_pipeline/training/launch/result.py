"""State and result of a training, collected from its events, and its errors. Does not import torch."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clips_pipeline.training.events.event_log import Event
from clips_pipeline.training.launch.interrupt import CTRL_C, INTERRUPTED, exit_code_after

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
RANK_MODULE = "clips_pipeline.training.launch.worker_main"
"""The module that each rank runs."""
LOGS = "logs"
"""Folder of the ranks' output in the run folder, in torchrun's layout: `START/attempt_0/RANK/stderr.log`."""
EXIT_CODES = "exit_codes.json"
"""By rank, the process and the exit code of the ranks that failed in the last attempt."""


class TrainingFailedError(RuntimeError):
    """The ranks ended before the training was finished. The message has the reason and the path of the log."""


class TrainingInterruptedError(RuntimeError):
    """The training, or the monitoring of it, was interrupted.

    The message names the source of the interrupt and what the same command then does.

    Args:
        message: text for the user.
        exit_code: exit code of the command: `INTERRUPTED`, or 130 after Ctrl-C, so that no loop restarts it.
    """

    def __init__(self, message: str, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        step: optimizer steps done.
        finished: False when the training stopped on request.
        metrics: the last held-out metrics.
        skipped: skipped samples by reason.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
    skipped: dict[str, int]


class RunState:
    """State of a run, collected from its events.

    Args:
        on_event: called for each event.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self.end: Event | None = None
        self.error: str | None = None
        self.interrupted: Event | None = None
        self._metrics: dict[str, float] = {}

    def process(self, events: Iterable[Event]) -> None:
        """Record new events and pass them on."""
        for event in events:
            if event["kind"] == "start":
                self.end = self.error = self.interrupted = None  # these were of an earlier start
            elif event["kind"] == "restart":
                log.warning("restart %d of %d: %s", event["attempt"], event["of"], event["reason"])
            elif event["kind"] == "interrupted":
                self.interrupted = event
            elif event["kind"] == "end":
                self.end = event
            elif event["kind"] == "error":
                self.error = event["message"]
            elif event["kind"] == "evaluation":
                self._metrics = event["metrics"]
            self._on_event(event)

    def result(self, interrupt_source: str | None = None) -> TrainingResult:
        """Return how the training ended.

        Args:
            interrupt_source: source of an interrupt of this process; None without one.

        Raises:
            TrainingInterruptedError: the training was interrupted.
            TrainingFailedError: the training has not ended.
        """
        if self.interrupted is not None and not (self.end is not None and self.end["finished"]):
            reason = CTRL_C if interrupt_source == CTRL_C else self.interrupted["reason"]
            raise TrainingInterruptedError(
                f"interrupted at step {self.interrupted['step']} ({reason}); a checkpoint was saved, and the same command "
                "resumes from it",
                exit_code_after(interrupt_source),
            )
        if self.end is None:
            raise TrainingFailedError("the event log has no end")
        return TrainingResult(self.end["step"], self.end["finished"], self._metrics, self.end["skipped"])
