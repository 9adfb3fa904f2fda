"""Time that the training waits for batches, and warnings when a batch is overdue."""

import logging
import time
from collections.abc import Sequence

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.data.loading.stall_monitor import ReadClock, Stall, StallMonitor
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import DATA_WAIT, DueCheck
from clips_pipeline.training.events.progress import stall_line

log = logging.getLogger(__name__)


class DataWaitMonitor(Callback):  # type: ignore[misc]
    """Measures the wait for each batch. A wait that is too long becomes a warning in the rank's log and a `stall` event.

    Args:
        writer: the event log on rank 0, None on other ranks.
        clock: read clock of the loader's dataset.
        shards: shards of the training split, to name the one that is read.
        stall_s: seconds of waiting after which to warn.
        is_due: whether the waiting fraction is logged after a step.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        clock: ReadClock,
        shards: Sequence[ShardEntry],
        stall_s: float,
        is_due: DueCheck,
    ) -> None:
        self.writer, self.clock, self.shards, self.stall_s, self.is_due = writer, clock, shards, stall_s, is_due
        self._watch: StallMonitor | None = None
        self._wait_started = self._last_logged = 0.0
        self._waited = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the clock and the stall watch."""
        self._last_logged = time.perf_counter()
        self._watch = StallMonitor(self.clock, dist.get_global_rank(), self.stall_s, self._report)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Start the measurement of a wait."""
        self._wait_started = time.perf_counter()
        if self._watch is not None:
            self._watch.begin()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """End the measurement of a wait."""
        self._waited += time.perf_counter() - self._wait_started
        if self._watch is not None:
            self._watch.end()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the fraction of the time since the last log that was spent waiting, from 0 to 1."""
        if self.is_due(state):
            now = time.perf_counter()
            fraction = self._waited / max(now - self._last_logged, 1e-9)
            self._waited, self._last_logged = 0.0, now
            logger.log_metrics({DATA_WAIT: min(fraction, 1.0)})

    def close(self, state: State, logger: Logger) -> None:
        """Stop the stall watch, also when the training failed."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _report(self, stall: Stall) -> None:
        shard = None if stall.shard is None else self.shards[stall.shard].path
        log.warning("%s", stall_line(stall.rank, stall.seconds, stall.worker, shard))
        if self.writer is not None:
            self.writer.write("stall", rank=stall.rank, seconds=stall.seconds, worker=stall.worker, shard=shard)
