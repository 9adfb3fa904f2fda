"""Golden loss curve: the losses of every step of a tiny training, which must not change by accident.

`make golden-curve` writes them again; the commit must say why they changed.
"""

import json
import os
from pathlib import Path

import pytest
from tests.integration.conftest import SpecOf

from clips_pipeline import formats
from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.launcher import launch

pytestmark = pytest.mark.slow

CURVE = Path(__file__).with_name("golden_curve.json")
# Another number of threads or ranks changes a loss by less than 1e-6; an error in the mathematics or the data by more.
TOLERANCE = 1e-4


def test_the_losses_are_those_of_before(spec_of: SpecOf) -> None:
    spec = spec_of("golden", samples=20 * 8)
    assert launch(spec, lambda event: None).finished
    steps = [event for event in read_all(spec.events) if event["kind"] == "step"]
    found = {
        "version": formats.TRAINING,
        "losses": {str(event["step"]): event["losses"] for event in steps},
        "trace": steps[-1]["trace"],
    }
    if os.environ.get("CLIPS_WRITE_GOLDEN") == "1":
        CURVE.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(CURVE.read_text())
    remedy = f"raise TRAINING from {expected['version']} in src/clips_pipeline/formats.py and run `make golden-curve`"
    assert found["version"] == expected["version"], "run `make golden-curve`"
    assert found["trace"] == expected["trace"], f"other samples, or in another order: {remedy}"
    assert found["losses"].keys() == expected["losses"].keys()
    for step, losses in expected["losses"].items():
        assert found["losses"][step] == pytest.approx(losses, rel=TOLERANCE), f"step {step}: {remedy}"
