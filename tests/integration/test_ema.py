"""The moving average: it never changes what is trained."""

import pytest
from tests.integration.conftest import SpecOf, losses

from clips_pipeline.training.events.event_log import Event
from clips_pipeline.training.launch.launcher import launch

pytestmark = pytest.mark.slow


def ignore(event: Event) -> None:
    """Do nothing: the events are read after the launch."""


def test_averages_and_evaluations_do_not_change_the_training(spec_of: SpecOf) -> None:
    optimizer = {"warmup_samples": 16, "peak_lr": 1e-2}
    plain = spec_of("plain", optimizer=optimizer)
    averaged = spec_of("averaged", optimizer=optimizer, ema={"half_life_batches": 2})
    evaluated = spec_of("evaluated", optimizer=optimizer, ema={"half_life_batches": 2}, every={"evaluate": 2})
    for spec in (plain, averaged, evaluated):
        assert launch(spec, ignore).finished
    assert losses(averaged) == losses(plain)
    assert losses(evaluated) == losses(plain)
