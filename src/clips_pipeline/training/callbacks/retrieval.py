"""Held-out metrics during training: retrieval, or the caption loss; computed by all ranks together."""

from collections.abc import Callable
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.events.event_logger import VALIDATION, DueCheck


class RetrievalCallback(Callback):  # type: ignore[misc]
    """Evaluates at intervals and logs the metrics.

    It is no Composer `Evaluator`: that computes metrics batch by batch, but retrieval ranks the rows of all batches and ranks.

    Args:
        is_due: whether to evaluate after a step.
        evaluate: takes a ClipsModel and returns metrics by name; called on every rank, so that ranks can share the work.
        evaluated_model: returns the model to evaluate (the moving average where there is one).
    """

    def __init__(
        self,
        is_due: DueCheck,
        evaluate: Callable[[Any], dict[str, float]],
        evaluated_model: Callable[[State], Any],
    ):
        self.is_due, self.evaluate, self.evaluated_model = is_due, evaluate, evaluated_model

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluate if it is due."""
        if self.is_due(state):
            metrics = self.evaluate(self.evaluated_model(state))
            samples = int(state.timestamp.sample)
            logger.log_metrics({"time/sample": samples, **{VALIDATION + name: v for name, v in metrics.items()}})
