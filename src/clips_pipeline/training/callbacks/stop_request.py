"""Stops all ranks after the same step when one of them is interrupted, or when the stop flag exists."""

from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import Due
from clips_pipeline.training.launch.interrupt import Interrupt


class StopRequestMonitor(Callback):  # type: ignore[misc]
    """Ends the training after the step in which the stop flag is seen or any rank is interrupted; a checkpoint follows.

    Args:
        writer: the event log on rank 0, None on other ranks.
        interrupt: of this rank.
        stop_flag: the file whose existence asks for a stop.
        due: whether the file is looked for after a step.
    """

    def __init__(self, writer: EventWriter | None, interrupt: Interrupt, stop_flag: Path, due: Due):
        self.writer, self.interrupt, self.stop_flag, self.due = writer, interrupt, stop_flag, due

    def batch_end(self, state: State, logger: Logger) -> None:
        """Agree: all ranks must stop at the same step, or the next collective deadlocks. It costs one number per step."""
        step = int(state.timestamp.batch)
        # Only rank 0 looks: a file that appears between two looks would otherwise divide the ranks.
        flagged = self.due(state) and dist.get_global_rank() == 0 and self.stop_flag.exists()
        asked = state.device.tensor_to_device(torch.tensor([int(self.interrupt.reason is not None), int(flagged)]))
        dist.all_reduce(asked, reduce_operation="MAX")
        interrupted, stopped = asked.tolist()
        if interrupted:
            reasons = dist.all_gather_object(self.interrupt.reason)
            reason = next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None)
            self.interrupt.ask(reason)
            self._stop(state, "interrupted", step=step, reason=reason)
        elif stopped:
            self._stop(state, "stop", step=step)

    def _stop(self, state: State, kind: str, **values: Any) -> None:
        if self.writer is not None:
            self.writer.write(kind, **values)
        state.stop_training()
