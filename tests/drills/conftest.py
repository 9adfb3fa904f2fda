"""Drills train on the small data set of the integration tests."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf
from tests.integration.conftest import prepared as prepared
from tests.integration.conftest import spec_of as spec_of

from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.run_spec import RunSpec


@pytest.fixture
def whole(spec_of: SpecOf) -> RunSpec:
    """Run the training of `spec_of` without interruption."""
    spec = spec_of("whole")
    assert launch(spec, lambda event: None).finished
    return spec


def assert_same_weights(spec: RunSpec, wanted: RunSpec) -> None:
    """Assert that the weights are equal, bit for bit."""
    found, expected = (load_file(Path(s.model_folder) / "model.safetensors") for s in (spec, wanted))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
