"""Stop of a training whose loss is NaN or infinite, before a checkpoint of it is written."""

import math
from collections.abc import Callable
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.training.events.event_logger import LOSS


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite."""


class DivergenceMonitor(Callback):  # type: ignore[misc]
    """Ends the run when a loss is not finite, before a checkpoint is written.

    Composer's `NaNMonitor` accepts an infinite loss, and raises only on the rank that has a NaN, for which the other ranks then
    wait. Here all ranks check the mean over ranks, which Composer has already copied to the host.

    Args:
        last_checkpoint: returns the path to name in the message.
    """

    def __init__(self, last_checkpoint: Callable[[], Path | None]) -> None:
        self.last_checkpoint = last_checkpoint

    def batch_end(self, state: State, logger: Logger) -> None:
        """Check the losses.

        Raises:
            TrainingDivergedError: a loss is not finite.
        """
        losses = state.total_loss_dict or {}
        bad = [name.removeprefix(LOSS) for name, value in losses.items() if not math.isfinite(value)]
        if not bad:
            return
        checkpoint = self.last_checkpoint()
        where = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise TrainingDivergedError(
            f"step {int(state.timestamp.batch)}: not finite: {', '.join(bad)}; training stopped before saving; {where}. "
            "Lower train.optimizer.peak_lr, lengthen train.optimizer.warmup_samples or set train.optimizer.clip_norm."
        )
