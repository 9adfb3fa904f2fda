"""Stop of all ranks after the same step, when one of them is interrupted or the stop flag exists."""

from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import DueCheck
from clips_pipeline.training.launch.interrupt import Interrupt
from clips_pipeline.training.resume.checkpoint_callback import CheckpointCallback


class StopRequestMonitor(Callback):  # type: ignore[misc]
    """Ends the training after the step at which the stop flag exists or a rank is interrupted; a checkpoint follows.

    Also after a step at which rank 0 has failed to write a checkpoint, with an error.

    Args:
        writer: the event log on rank 0, None on other ranks.
        interrupt: interrupt of this rank.
        stop_flag: file whose existence requests a stop.
        is_due: whether to look for the file after a step.
        checkpoints: saves the checkpoints.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        interrupt: Interrupt,
        stop_flag: Path,
        is_due: DueCheck,
        checkpoints: CheckpointCallback,
    ) -> None:
        self.writer, self.interrupt, self.stop_flag, self.is_due = writer, interrupt, stop_flag, is_due
        self.checkpoints = checkpoints

    def batch_end(self, state: State, logger: Logger) -> None:
        """Decide for all ranks: they must stop at the same step, or the next collective deadlocks. Costs one small all-reduce.

        Raises:
            CannotWriteError: rank 0 could not write the last checkpoint; raised on every rank.
        """
        step = int(state.timestamp.batch)
        # Only rank 0 looks for the file: it may appear between the looks of two ranks.
        flagged = self.is_due(state) and dist.get_global_rank() == 0 and self.stop_flag.exists()
        mine = [self.interrupt.reason is not None, flagged, self.checkpoints.has_failed()]
        requests = state.device.tensor_to_device(torch.tensor([int(request) for request in mine]))
        dist.all_reduce(requests, reduce_operation="MAX")
        interrupted, stopped, failed = requests.tolist()
        if failed:
            self.checkpoints.finish()
        if interrupted:
            reasons = dist.all_gather_object(self.interrupt.reason)
            reason = next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None)
            self.interrupt.request(reason)
            self._stop(state, "interrupted", step=step, reason=reason)
        elif stopped:
            self._stop(state, "stop", step=step)

    def _stop(self, state: State, kind: str, **values: Any) -> None:
        if self.writer is not None:
            self.writer.write(kind, **values)
        state.stop_training()
