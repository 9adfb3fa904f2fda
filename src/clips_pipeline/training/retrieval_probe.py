"""Held-out retrieval while a model trains, worked out by all ranks together."""

from collections.abc import Callable
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.events import EventWriter


class RetrievalProbe(Callback):  # type: ignore[misc]
    """Evaluates every so often and writes `evaluation` events.

    Args:
        writer: the event log on rank 0, None on other ranks.
        every: steps between two evaluations; the last step always evaluates.
        steps: the last step of the run.
        probe: evaluates a ClipsModel and returns named numbers; called on every rank, so that it may share the work.
        model_of: the model to look at (the moving average where there is one).
    """

    def __init__(
        self,
        writer: EventWriter | None,
        every: int,
        steps: int,
        probe: Callable[[Any], dict[str, float]],
        model_of: Callable[[State], Any],
    ):
        self.writer, self.every, self.steps, self.probe, self.model_of = writer, every, steps, probe, model_of

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluate when due."""
        step = int(state.timestamp.batch)
        if step % self.every and step != self.steps:
            return
        metrics = self.probe(self.model_of(state))
        if self.writer is not None:
            self.writer.write("evaluation", step=step, samples=int(state.timestamp.sample), metrics=metrics)
