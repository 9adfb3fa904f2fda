"""Which samples were trained and skipped; and the epoch, by which the dataset orders its samples."""

import hashlib
from collections import Counter
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.training.events.event_logger import SKIPPED, TRACE, DueCheck

_MODULUS = 1 << 64


def batch_trace(step: int, keys: list[str]) -> int:
    """Return a number that identifies the samples of a step. The traces of all steps and ranks are added modulo 2^64.

    Two runs with equal sums have trained the same samples at the same steps, on any number of ranks.
    """
    digests = (hashlib.blake2b(f"{step} {key}".encode(), digest_size=8).digest() for key in keys)
    return sum(int.from_bytes(digest, "big") for digest in digests) % _MODULUS


class SampleTrace(Callback):  # type: ignore[misc]
    """Sets the epoch of the dataset, which determines its order, and logs which samples were trained and skipped.

    Args:
        is_due: whether to log after a step.
    """

    def __init__(self, is_due: DueCheck) -> None:
        self.is_due = is_due
        self.skipped: Counter[str] = Counter()
        self._trace = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all ranks. A collective operation: every rank must call it. Rank 0 saves the result."""
        skipped, trace = self._sum_over_ranks()
        return {"skipped": dict(skipped), "trace": trace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums on rank 0 only, so that they are right for any number of ranks."""
        if dist.get_global_rank() == 0:
            self.skipped, self._trace = Counter(state["skipped"]), state["trace"]

    def epoch_start(self, state: State, logger: Logger) -> None:
        """Set the epoch before the loader is iterated. Composer does not call this for an epoch that is resumed."""
        state.train_dataloader.dataset.set_epoch(int(state.timestamp.epoch))

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """Count the skipped samples by reason, and add the trained ones to the trace."""
        self.skipped.update(state.batch.skipped)
        self._trace = (self._trace + batch_trace(int(state.timestamp.batch), state.batch.keys)) % _MODULUS

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the sums over ranks if they are due."""
        if self.is_due(state):
            skipped, trace = self._sum_over_ranks()
            logger.log_metrics({TRACE: f"{trace:016x}", **{SKIPPED + why: count for why, count in skipped.items()}})

    def _sum_over_ranks(self) -> tuple[Counter[str], int]:
        """Return counts of skipped samples and the trace, summed over ranks."""
        if dist.get_world_size() == 1:
            return self.skipped, self._trace
        counts, total = Counter[str](), 0
        for skipped, trace in dist.all_gather_object((dict(self.skipped), self._trace)):
            counts.update(skipped)
            total = (total + trace) % _MODULUS
        return counts, total
