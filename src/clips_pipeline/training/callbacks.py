"""What happens around the steps: events, clamp, NaN stop, stop flag, interruption."""

import hashlib
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
from clips_pipeline.training.interrupt import Interrupt
from clips_pipeline.training.sharding import whole

# exp(t) is kept at 100 or below, as in CLIP: beyond it the softmax is so sharp that training turns unstable.
MAX_LOGIT_SCALE = math.log(100.0)


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite."""


def _composer(state: State) -> Any:
    """The ComposerClips inside DDP's wrapper."""
    return getattr(state.model, "module", state.model)


def _clips(state: State) -> Any:
    """The ClipsModel inside DDP's and Composer's wrappers."""
    return _composer(state).clips


_TRACE = 1 << 64


def trace(step: int, keys: list[str]) -> int:
    """A number that says which samples a step has trained; those of all steps and ranks are added up, modulo 2^64.

    Two runs whose sums agree have trained the same samples at the same steps, on however many ranks.
    """
    digests = (hashlib.blake2b(f"{step} {key}".encode(), digest_size=8).digest() for key in keys)
    return sum(int.from_bytes(digest, "big") for digest in digests) % _TRACE


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
        self._trace = 0
        self._since = (time.perf_counter(), 0)

    def state_dict(self) -> dict[str, Any]:
        """Of all ranks together, which all must ask; rank 0 saves it."""
        skipped, trace = self._global()
        return {"skipped": dict(skipped), "trace": trace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rank 0 goes on with what all had, the others with nothing, so the sums are right for any number of ranks."""
        if dist.get_global_rank() == 0:
            self.skipped, self._trace = Counter(state["skipped"]), state["trace"]

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), int(state.timestamp.batch))

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Count the samples that were skipped, by reason, and take down which were trained at which step."""
        self.skipped.update(state.batch.skipped)
        self._trace = (self._trace + trace(int(state.timestamp.batch), state.batch.keys)) % _TRACE

    def batch_end(self, state: State, logger: Logger) -> None:
        """One look at the loss per step; Composer has already brought it to the host, summed over ranks."""
        step = int(state.timestamp.batch)
        # The total is finite only where all its parts are.
        if not all(math.isfinite(value) for value in (state.total_loss_dict or {}).values()):
            self._diverged(step, _composer(state).reduced_parts())
        if step % self.every == 0 or step == self.steps:
            self._write(state, step, _composer(state).reduced_parts())
            self._obey_stop_flag(state)

    def _write(self, state: State, step: int, losses: dict[str, float]) -> None:
        now, (then, step_then) = time.perf_counter(), self._since
        samples = int(state.timestamp.sample)
        per_step = samples / max(step, 1)
        rate = (step - step_then) * per_step / max(now - then, 1e-9)
        self._since = (now, step)
        (counts, traced), data_wait = self._global(), self.data_wait()
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
                trace=f"{traced:016x}",
            )
            if counts:
                self.writer.write("skips", step=step, counts=dict(counts))

    def _global(self) -> tuple[Counter[str], int]:
        """Skips and trace, summed over ranks."""
        if dist.get_world_size() == 1:
            return self.skipped, self._trace
        counts, traced = Counter[str](), 0
        for skipped, part in dist.all_gather_object((dict(self.skipped), self._trace)):
            counts.update(skipped)
            traced = (traced + part) % _TRACE
        return counts, traced

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


class StopWhenInterrupted(Callback):  # type: ignore[misc]
    """Ends the training after the step in which any rank was asked to end; a checkpoint follows, as at every end.

    Args:
        writer: the event log on rank 0, None on other ranks.
        interrupt: of this rank.
    """

    def __init__(self, writer: EventWriter | None, interrupt: Interrupt):
        self.writer, self.interrupt = writer, interrupt

    def batch_end(self, state: State, logger: Logger) -> None:
        """Agree, since ranks that part never meet again. It costs one number per step, beside those that Composer sums."""
        asked = state.device.tensor_to_device(torch.tensor([int(self.interrupt.reason is not None)]))
        dist.all_reduce(asked, reduce_operation="MAX")
        if not int(asked):
            return
        reasons = dist.all_gather_object(self.interrupt.reason)
        reason = next(f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None)
        self.interrupt.ask(reason)
        if self.writer is not None:
            self.writer.write("interrupted", step=int(state.timestamp.batch), reason=reason)
        state.stop_training()
