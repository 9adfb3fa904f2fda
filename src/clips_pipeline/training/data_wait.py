"""How long the training waits for batches, and who is to blame when one is overdue."""

import logging
import time
from collections.abc import Sequence

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from clips_pipeline.shards.index import ShardEntry
from clips_pipeline.shards.stall import ReadClock, Stall, StallWatch
from clips_pipeline.training.events import EventWriter
from clips_pipeline.training.progress import stall_line

log = logging.getLogger(__name__)


class DataWait(Callback):  # type: ignore[misc]
    """Times the waits for batches; a wait that is too long becomes a warning in the worker's log and a `stall` event.

    Args:
        writer: the event log on rank 0, None on other ranks.
        clock: of the loader's dataset.
        shards: of the training split, to name one.
        stall_s: seconds of waiting that are too long.
    """

    def __init__(
        self, writer: EventWriter | None, clock: ReadClock, shards: Sequence[ShardEntry], stall_s: float
    ) -> None:
        self.writer, self.clock, self.shards, self.stall_s = writer, clock, shards, stall_s
        self._watch: StallWatch | None = None
        self._asked_at = self._since = 0.0
        self._waited = 0.0

    def share(self) -> float:
        """Share of the time since the last call that went into waiting for batches, from 0 to 1."""
        now = time.perf_counter()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return min(share, 1.0)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Start the clock and the watch."""
        self._since = time.perf_counter()
        self._watch = StallWatch(self.clock, dist.get_global_rank(), self.stall_s, self._tell)

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
