"""What happens around the steps: temperature, divergence, order and trace of samples, requests to stop."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.event_logger import LOGIT_SCALE, LOSS, SKIPPED, TRACE, Due
from clips_pipeline.training.events import EventWriter
from clips_pipeline.training.interrupt import Interrupt
from clips_pipeline.training.sharding import whole

# exp(t) is kept at 100 or below, as in CLIP: beyond it the softmax is so sharp that training turns unstable.
MAX_LOGIT_SCALE = math.log(100.0)


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite."""


_TRACE = 1 << 64


def trace(step: int, keys: list[str]) -> int:
    """A number that says which samples a step has trained; those of all steps and ranks are added up, modulo 2^64.

    Two runs whose sums agree have trained the same samples at the same steps, on however many ranks.
    """
    digests = (hashlib.blake2b(f"{step} {key}".encode(), digest_size=8).digest() for key in keys)
    return sum(int.from_bytes(digest, "big") for digest in digests) % _TRACE


class ClampTemperature(Algorithm):  # type: ignore[misc]
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


class StopOnDivergence(Callback):  # type: ignore[misc]
    """Ends the run before a checkpoint is written of a model whose loss is not finite.

    Composer's `NaNMonitor` lets an infinite loss pass, and raises on the one rank that has a NaN, for which the others then
    wait; here all ranks look at the mean over ranks, which Composer has brought to the host anyway.

    Args:
        last_checkpoint: gives the path to name in the message.
    """

    def __init__(self, last_checkpoint: Callable[[], Path | None]) -> None:
        self.last_checkpoint = last_checkpoint

    def batch_end(self, state: State, logger: Logger) -> None:
        """Look at the losses.

        Raises:
            TrainingDivergedError: one is not finite.
        """
        losses = state.total_loss_dict or {}
        bad = [name.removeprefix(LOSS) for name, value in losses.items() if not math.isfinite(value)]
        if not bad:
            return
        good = self.last_checkpoint()
        where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        raise TrainingDivergedError(
            f"step {int(state.timestamp.batch)}: not finite: {', '.join(bad)}; training stopped before saving; {where}. "
            "Lower train.optimizer.peak_lr, lengthen train.optimizer.warmup_samples or set train.optimizer.clip_norm."
        )


class SampleTrace(Callback):  # type: ignore[misc]
    """Tells the dataset the epoch, of which its order is a function, and logs which samples were trained and skipped.

    Args:
        due: whether they are logged after a step.
    """

    def __init__(self, due: Due) -> None:
        self.due = due
        self.skipped: Counter[str] = Counter()
        self._trace = 0

    def state_dict(self) -> dict[str, Any]:
        """Of all ranks together, which all must ask; rank 0 saves it."""
        skipped, trace = self._global()
        return {"skipped": dict(skipped), "trace": trace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rank 0 goes on with what all had, the others with nothing, so the sums are right for any number of ranks."""
        if dist.get_global_rank() == 0:
            self.skipped, self._trace = Counter(state["skipped"]), state["trace"]

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Called before the loader is iterated, not when an epoch is resumed in its middle."""
        state.train_dataloader.dataset.set_epoch(int(state.timestamp.epoch))

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Count the samples that were skipped, by reason, and take down which were trained at which step."""
        self.skipped.update(state.batch.skipped)
        self._trace = (self._trace + trace(int(state.timestamp.batch), state.batch.keys)) % _TRACE

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the sums over ranks when due."""
        if self.due(state):
            skipped, traced = self._global()
            logger.log_metrics({TRACE: f"{traced:016x}", **{SKIPPED + why: count for why, count in skipped.items()}})

    def _global(self) -> tuple[Counter[str], int]:
        """Skips and trace, summed over ranks."""
        if dist.get_world_size() == 1:
            return self.skipped, self._trace
        counts, traced = Counter[str](), 0
        for skipped, part in dist.all_gather_object((dict(self.skipped), self._trace)):
            counts.update(skipped)
            traced = (traced + part) % _TRACE
        return counts, traced


class StopOnRequest(Callback):  # type: ignore[misc]
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
