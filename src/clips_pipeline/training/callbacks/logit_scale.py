"""Upper bound of the logit scale, applied after every update."""

import math

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from clips_pipeline.training.events.event_logger import LOGIT_SCALE, DueCheck
from clips_pipeline.training.sharding import full_tensor

# exp(t) is kept at 100 or below, as in CLIP: above it the softmax is so sharp that training becomes unstable.
MAX_LOG_LOGIT_SCALE = math.log(100.0)


class LogitScaleClamp(Algorithm):  # type: ignore[misc]
    """Clamps the logit scale to CLIP's bound after every update, before the moving average reads it.

    Args:
        is_due: whether the value is logged after a step.
    """

    def __init__(self, is_due: DueCheck) -> None:
        self.is_due = is_due

    def match(self, event: Event, state: State) -> bool:
        """Run after the update."""
        return event == Event.BATCH_END  # type: ignore[no-any-return]

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clamp in place; the parameter is replicated, so every rank does the same."""
        scale = getattr(state.model, "module", state.model).clips.logit_scale
        with torch.no_grad():
            scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
        if self.is_due(state):
            logger.log_metrics({LOGIT_SCALE: float(full_tensor(scale.detach()).exp())})
