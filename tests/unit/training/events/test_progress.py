"""Progress in the terminal for every method: `clip` and `mixture` have no caption loss."""

import io

import pytest
from rich.console import Console

from clips_pipeline.training.events.progress import Progress

LOSSES = {"total": 3.0, "contrastive": 1.25, "contrastive_web": 1.25}
CAPTION = {"caption": 0.875}


@pytest.mark.parametrize(
    ("losses", "shown"),
    [(LOSSES, "contrastive 1.250  1,024 samples/s"), (LOSSES | CAPTION, "contrastive 1.250  caption 0.875  1,024 sam")],
    ids=["no captioner", "captioner"],
)
def test_a_step_shows_the_losses_that_the_method_has(losses: dict[str, float], shown: str) -> None:
    written = io.StringIO()
    with Progress(10, Console(file=written, width=200)) as progress:
        progress.show({"kind": "step", "step": 10, "losses": losses, "samples_per_s": 1024.0})
    assert f"step 10/10: {shown}" in written.getvalue()
