"""The phase of the current step, for the heartbeat of this rank."""

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.launch.heartbeat import HeartbeatWriter


class HeartbeatCallback(Callback):  # type: ignore[misc]
    """Passes the phase of each step to the heartbeat, so that the messages about a rank that hangs can name it.

    Args:
        heartbeat: the heartbeat of this rank.
    """

    def __init__(self, heartbeat: HeartbeatWriter) -> None:
        self.heartbeat = heartbeat

    def _set(self, state: State, activity: str) -> None:
        self.heartbeat.set_activity(int(state.timestamp.batch), activity)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Report that the loader prepares a batch."""
        self._set(state, "waiting for a batch")

    def before_forward(self, state: State, logger: Logger) -> None:
        """Report the forward pass."""
        self._set(state, "forward")

    def before_backward(self, state: State, logger: Logger) -> None:
        """Report the backward pass, which also averages gradients over ranks."""
        self._set(state, "backward")

    def after_backward(self, state: State, logger: Logger) -> None:
        """Report the optimizer step."""
        self._set(state, "update")

    def batch_end(self, state: State, logger: Logger) -> None:
        """Report the callbacks that log, evaluate and save; this one must come before them in Composer's list."""
        self._set(state, "after the step: log, evaluation, checkpoint")

    def fit_end(self, state: State, logger: Logger) -> None:
        """Report the export."""
        self._set(state, "export")
