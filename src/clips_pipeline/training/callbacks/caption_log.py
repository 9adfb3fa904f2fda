"""Captions of a few held-out images at every evaluation: files in the run folder and a `captions` event."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from clips_pipeline.io.atomic import write_bytes
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import DueCheck

MakeExamples = Callable[[Any, int], tuple[dict[str, Any], bytes]]
"""Takes a model and the step; returns the examples as data and as a PNG."""


class CaptionLog(Callback):  # type: ignore[misc]
    """Writes `captions/step-N.json` and `.png`, and an event that names them; the launcher's process sends them to MLflow.

    Args:
        writer: the event log on rank 0, None on other ranks.
        folder: the run folder.
        is_due: whether to write after a step.
        evaluated_model: returns the model to evaluate; called on every rank.
        make_examples: makes the examples; called on rank 0.
    """

    def __init__(
        self,
        writer: EventWriter | None,
        folder: Path,
        is_due: DueCheck,
        evaluated_model: Callable[[State], Any],
        make_examples: MakeExamples,
    ) -> None:
        self.writer, self.folder, self.is_due = writer, folder / "captions", is_due
        self.evaluated_model, self.make_examples = evaluated_model, make_examples

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the examples if they are due."""
        if not self.is_due(state):
            return
        step = int(state.timestamp.batch)
        model = self.evaluated_model(state)
        if self.writer is None:
            return
        table, image = self.make_examples(model, step)
        self.folder.mkdir(exist_ok=True)
        files = {f"step-{step:07d}.json": json.dumps(table, indent=1).encode(), f"step-{step:07d}.png": image}
        for name, content in files.items():
            write_bytes(self.folder / name, content)
        self.writer.write("captions", step=step, files=[str(self.folder / name) for name in files])
