"""How long the training waits for batches, and who is to blame when one is overdue."""

import logging
import time
from collections.abc import Sequence

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.data.loading.stall_monitor import ReadClock, Stall, StallMonitor
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import DATA_WAIT, Due
from clips_pipeline.training.events.progress import stall_line

log = logging.getLogger(__name__)


class DataWaitMonitor(Callback):  # type: ignore[misc]
    """Times the waits for batches; a wait that is too long becomes a warning in the worker's log and a `stall` event.

    Args:
        writer: the event log on rank 0, None on other ranks.
        clock: of the loader's dataset.
        shards: of the training split, to name one.
        stall_s: seconds of waiting that are too long.
        due: whether the share is logged after a step.
    """

    def __init__(
        self, writer: EventWriter | None, clock: ReadClock, shards: Sequence[ShardEntry], stall_s: float, due: Due
    ) -> None:
        self.writer, self.clock, self.shards, self.stall_s, self.due = writer, clock, shards, stall_s, due
        self._watch: StallMonitor | None = None
        self._asked_at = self._since = 0.0
        self._waited = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the clock and the watch."""
        self._since = time.perf_counter()
        self._watch = StallMonitor(self.clock, dist.get_global_rank(), self.stall_s, self._tell)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """A batch is waited for."""
        self._asked_at = time.perf_counter()
        if self._watch is not None:
            self._watch.begin()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """It is there."""
        self._waited += time.perf_counter() - self._asked_at
        if self._watch is not None:
            self._watch.end()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log the share of the time since it was last logged that went into waiting, from 0 to 1."""
        if self.due(state):
            now = time.perf_counter()
            share = self._waited / max(now - self._since, 1e-9)
            self._waited, self._since = 0.0, now
            logger.log_metrics({DATA_WAIT: min(share, 1.0)})

    def close(self, state: State, logger: Logger) -> None:
        """End the watch, also when the training failed."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _tell(self, stall: Stall) -> None:
        shard = None if stall.shard is None else self.shards[stall.shard].path
        log.warning("%s", stall_line(stall.rank, stall.seconds, stall.worker, shard))
        if self.writer is not None:
            self.writer.write("stall", rank=stall.rank, seconds=stall.seconds, worker=stall.worker, shard=shard)
