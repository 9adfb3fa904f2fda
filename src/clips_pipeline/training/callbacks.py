"""What happens around the steps: events, clamp, NaN stop, stop flag, validation."""

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.events import EventWriter
from clips_pipeline.training.sharding import whole

# exp(t) is kept at 100 or below, as in CLIP: beyond it the softmax is so sharp that training turns unstable.
MAX_LOGIT_SCALE = math.log(100.0)


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite."""


def _clips(state: State) -> Any:
    """The ClipsModel inside DDP's and Composer's wrappers."""
    return getattr(state.model, "module", state.model).clips


class ClampLogitScale(Callback):  # type: ignore[misc]
    """Keeps the temperature within CLIP's bound after every update."""

    def batch_end(self, state: State, logger: Logger) -> None:
        """Clamp in place; the parameter is replicated, so every rank does the same."""
        with torch.no_grad():
            _clips(state).logit_scale.clamp_(max=MAX_LOGIT_SCALE)


class EpochOrder(Callback):  # type: ignore[misc]
    """Tells the dataset which epoch begins; the order of samples is a function of it."""

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Called before the loader is iterated, not when an epoch is resumed in its middle."""
        state.train_dataloader.dataset.set_epoch(int(state.timestamp.epoch))


class StepLog(Callback):  # type: ignore[misc]
    """Writes `step` events, checks for NaN before a checkpoint could be written, and obeys the stop flag.

    Args:
        writer: the event log on rank 0, None on other ranks.
        every: steps between two events.
        steps: the last step of the run.
        stop_flag: the file whose existence asks for a stop.
        last_checkpoint: gives the path to name in the message when training diverges.
        data_wait: share of the time that went into waiting for batches, since it was last asked.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        every: int,
        steps: int,
        stop_flag: Path,
        last_checkpoint: Callable[[], Path | None],
        data_wait: Callable[[], float],
    ):
        self.writer, self.every, self.steps = writer, every, steps
        self.stop_flag, self.last_checkpoint, self.data_wait = stop_flag, last_checkpoint, data_wait
        self.skipped: Counter[str] = Counter()
        self._since = (time.perf_counter(), 0)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), int(state.timestamp.batch))

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Count the samples that were skipped, by reason."""
        self.skipped.update(state.batch.skipped)

    def batch_end(self, state: State, logger: Logger) -> None:
        """One look at the losses per step; Composer has already brought them to the host, summed over ranks."""
        step = int(state.timestamp.batch)
        # Composer names them `loss/train/total` and so on.
        losses = {name.rsplit("/", 1)[-1]: float(value) for name, value in (state.total_loss_dict or {}).items()}
        if not all(math.isfinite(value) for value in losses.values()):
            self._diverged(step, losses)
        if step % self.every == 0 or step == self.steps:
            self._write(state, step, losses)
            self._obey_stop_flag(state)

    def _write(self, state: State, step: int, losses: dict[str, float]) -> None:
        now, (then, step_then) = time.perf_counter(), self._since
        samples = int(state.timestamp.sample)
        per_step = samples / max(step, 1)
        rate = (step - step_then) * per_step / max(now - then, 1e-9)
        self._since = (now, step)
        counts, data_wait = self._global_skips(), self.data_wait()
        logit_scale = float(whole(_clips(state).logit_scale.detach()).exp())
        if self.writer is not None:
            self.writer.write(
                "step",
                step=step,
                samples=samples,
                losses=losses,
                logit_scale=logit_scale,
                learning_rate=state.schedulers[0].get_last_lr()[0],
                samples_per_s=rate,
                data_wait_share=data_wait,
            )
            if counts:
                self.writer.write("skips", step=step, counts=dict(counts))

    def _global_skips(self) -> Counter[str]:
        if dist.get_world_size() == 1:
            return self.skipped
        counts: Counter[str] = Counter()
        for rank_counts in dist.all_gather_object(dict(self.skipped)):
            counts.update(rank_counts)
        return counts

    def _obey_stop_flag(self, state: State) -> None:
        # Only rank 0 looks, and tells the others: a file that appears between two looks would otherwise part the ranks.
        asked = [self.stop_flag.exists() if dist.get_global_rank() == 0 else None]
        dist.broadcast_object_list(asked, src=0)
        if asked[0]:
            if self.writer is not None:
                self.writer.write("stop", step=int(state.timestamp.batch))
            state.stop_training()

    def _diverged(self, step: int, losses: dict[str, float]) -> None:
        bad = ", ".join(name for name, value in losses.items() if not math.isfinite(value))
        good = self.last_checkpoint()
        where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        raise TrainingDivergedError(
            f"step {step}: not finite: {bad}; training stopped before saving; {where}. "
            "Lower train.optimizer.peak_lr, lengthen train.optimizer.warmup_samples or set train.optimizer.clip_norm."
        )
