"""The bound of the logit scale, applied after every update."""

import math

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from clips_pipeline.training.events.event_logger import LOGIT_SCALE, Due
from clips_pipeline.training.sharding import whole

# exp(t) is kept at 100 or below, as in CLIP: beyond it the softmax is so sharp that training turns unstable.
MAX_LOGIT_SCALE = math.log(100.0)


class LogitScaleClamp(Algorithm):  # type: ignore[misc]
    """Keeps the temperature within CLIP's bound after every update, before an average is taken of it.

    Args:
        due: whether the value is logged after a step.
    """

    def __init__(self, due: Due) -> None:
        self.due = due

    def match(self, event: Event, state: State) -> bool:
        """After the update."""
        return event == Event.BATCH_END  # type: ignore[no-any-return]

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clamp in place; the parameter is replicated, so every rank does the same."""
        scale = getattr(state.model, "module", state.model).clips.logit_scale
        with torch.no_grad():
            scale.clamp_(max=MAX_LOGIT_SCALE)
        if self.due(state):
            logger.log_metrics({LOGIT_SCALE: float(whole(scale.detach()).exp())})
