"""Held-out retrieval while a model trains, worked out by all ranks together."""

from collections.abc import Callable
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.events.event_logger import VALIDATION, Due


class RetrievalCallback(Callback):  # type: ignore[misc]
    """Evaluates every so often and logs the metrics.

    Not a Composer `Evaluator`: that takes its metrics batch by batch, and retrieval ranks the rows of all batches and ranks.

    Args:
        due: whether to evaluate after a step.
        probe: evaluates a ClipsModel and returns named numbers; called on every rank, so that it may share the work.
        model_of: the model to look at (the moving average where there is one).
    """

    def __init__(self, due: Due, probe: Callable[[Any], dict[str, float]], model_of: Callable[[State], Any]):
        self.due, self.probe, self.model_of = due, probe, model_of

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluate when due."""
        if self.due(state):
            metrics = self.probe(self.model_of(state))
            samples = int(state.timestamp.sample)
            logger.log_metrics({"time/sample": samples, **{VALIDATION + name: v for name, v in metrics.items()}})
