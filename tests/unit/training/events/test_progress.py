"""Progress of a training for every method: `clip` and `mixture` have no caption loss."""

import logging

import pytest

from clips_pipeline.training.events.progress import Progress

LOSSES = {"total": 3.0, "contrastive": 1.25, "contrastive_web": 1.25}
CAPTION = {"caption": 0.875}


@pytest.mark.parametrize(
    ("losses", "shown"),
    [(LOSSES, "contrastive 1.250  1,024 samples/s"), (LOSSES | CAPTION, "contrastive 1.250  caption 0.875  1,024 sam")],
    ids=["no captioner", "captioner"],
)
def test_a_step_shows_the_losses_that_the_method_has(
    losses: dict[str, float], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clips_pipeline")
    with Progress(10) as progress:
        progress.show({"kind": "step", "step": 10, "losses": losses, "samples_per_s": 1024.0})
    (line,) = caplog.messages
    assert line.startswith(f"train: 10 of 10 steps, {shown}")


def test_other_events_are_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clips_pipeline")
    progress = Progress(10)
    progress.show({"kind": "evaluation", "step": 5, "metrics": {"mean_recall@1": 0.5, "other": 1.0}})
    progress.show({"kind": "changed", "step": 6, "values": {"train.launch.threads": [1, 2]}})
    assert caplog.messages == [
        "step 5: held-out mean_recall@1 0.5000",
        "from step 6: train.launch.threads is 2; it was 1",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
