"""At every evaluation, what the captioner writes about a few held-out pictures: files in the run folder, and an event."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.io.atomic import write_bytes
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import Due

Show = Callable[[Any, int], tuple[dict[str, Any], bytes]]
"""A model and the number of the step to the examples as data and as a PNG."""


class CaptionLog(Callback):  # type: ignore[misc]
    """Writes `captions/step-N.json` and `.png`, and an event that names them; whoever follows sends them on.

    Args:
        writer: the event log on rank 0, None on other ranks.
        folder: the run folder.
        due: whether to write after a step.
        whole_model: gives the model to look at; called on every rank.
        show: makes the examples, on rank 0.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        folder: Path,
        due: Due,
        whole_model: Callable[[State], Any],
        show: Show,
    ) -> None:
        self.writer, self.folder, self.due = writer, folder / "captions", due
        self.whole_model, self.show = whole_model, show

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write when due."""
        if not self.due(state):
            return
        step = int(state.timestamp.batch)
        model = self.whole_model(state)
        if self.writer is None:
            return
        table, picture = self.show(model, step)
        self.folder.mkdir(exist_ok=True)
        files = {f"step-{step:07d}.json": json.dumps(table, indent=1).encode(), f"step-{step:07d}.png": picture}
        for name, content in files.items():
            write_bytes(self.folder / name, content)
        self.writer.write("captions", step=step, files=[str(self.folder / name) for name in files])
