"""What becomes of a training, learned from its events, however its ranks were started. Loads no torch."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clips_pipeline.training.events.event_log import Event
from clips_pipeline.training.launch.interrupt import CTRL_C, INTERRUPTED, exit_code_after

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
WORKER = "clips_pipeline.training.launch.worker_main"
"""The module that is one rank."""
LOGS = "logs"
"""Folder of the ranks' output in the run folder, in torchrun's layout: `START/attempt_0/RANK/stderr.log`."""
EXIT_CODES = "exit_codes.json"
"""By rank, the process and exit code of those that failed in the last attempt."""


class TrainingFailedError(RuntimeError):
    """The workers ended without finishing; the message says why and where the log is."""


class TrainingInterruptedError(RuntimeError):
    """The training was asked to end before its time, and kept what it had; the message says by what.

    Args:
        message: for people.
        exit_code: of the command: `INTERRUPTED`, or 130 after Ctrl-C, so that no loop around it starts it again.
    """

    def __init__(self, message: str, exit_code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: optimiser steps done.
        finished: False when it stopped on request.
        metrics: the last held-out metrics.
        skipped: samples skipped by reason.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
    skipped: dict[str, int]


class RunMonitor:
    """What has been learned of a run from its events.

    Args:
        on_event: called for each of them.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self.end: Event | None = None
        self.error: str | None = None
        self.interrupted: Event | None = None
        self._metrics: dict[str, float] = {}

    def take(self, events: Iterable[Event]) -> None:
        """Take note of new events and pass them on."""
        for event in events:
            if event["kind"] == "start":
                self.end = self.error = self.interrupted = None  # of an earlier start
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

    def outcome(self, asked_by: str | None = None) -> Outcome:
        """How it ended; `asked_by` is what asked this process to end, if anything did.

        Raises:
            TrainingInterruptedError: it was interrupted.
            TrainingFailedError: it has not ended.
        """
        if self.interrupted is not None and not (self.end is not None and self.end["finished"]):
            reason = CTRL_C if asked_by == CTRL_C else self.interrupted["reason"]
            raise TrainingInterruptedError(
                f"interrupted at step {self.interrupted['step']} ({reason}), with a checkpoint; the same command goes on "
                "from there",
                exit_code_after(asked_by),
            )
        if self.end is None:
            raise TrainingFailedError("the event log has no end")
        return Outcome(self.end["step"], self.end["finished"], self._metrics, self.end["skipped"])
