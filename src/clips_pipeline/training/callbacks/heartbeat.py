"""Tells in signs of life what the training is doing, so that one who hangs is found by where it stands."""

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.launch.heartbeat import HeartbeatWriter


class HeartbeatCallback(Callback):  # type: ignore[misc]
    """Notes the parts of each step.

    Args:
        life: of this rank.
    """

    def __init__(self, life: HeartbeatWriter) -> None:
        self.life = life

    def _at(self, state: State, doing: str) -> None:
        self.life.at(int(state.timestamp.batch), doing)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """A batch is asked for."""
        self._at(state, "waiting for a batch")

    def before_forward(self, state: State, logger: Logger) -> None:
        """The model runs."""
        self._at(state, "forward")

    def before_backward(self, state: State, logger: Logger) -> None:
        """Gradients are made and, with several ranks, averaged."""
        self._at(state, "backward")

    def after_backward(self, state: State, logger: Logger) -> None:
        """The optimiser is next."""
        self._at(state, "update")

    def batch_end(self, state: State, logger: Logger) -> None:
        """Called before the callbacks that evaluate and save, when it stands before them."""
        self._at(state, "after the step: log, evaluation, checkpoint")

    def fit_end(self, state: State, logger: Logger) -> None:
        """The model is written."""
        self._at(state, "export")
