"""The epoch that the dataset orders its samples by, and which samples were trained and skipped."""

import hashlib
from collections import Counter
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.events.event_logger import SKIPPED, TRACE, Due

_TRACE = 1 << 64


def trace(step: int, keys: list[str]) -> int:
    """A number that says which samples a step has trained; those of all steps and ranks are added up, modulo 2^64.

    Two runs whose sums agree have trained the same samples at the same steps, on however many ranks.
    """
    digests = (hashlib.blake2b(f"{step} {key}".encode(), digest_size=8).digest() for key in keys)
    return sum(int.from_bytes(digest, "big") for digest in digests) % _TRACE


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
