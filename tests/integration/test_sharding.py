"""FSDP2 on two gloo ranks: the losses of plain data parallelism, whole checkpoints, and a whole exported model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.conftest import SpecOf, losses

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.training.events.event_log import Event, read_all
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow

PLAIN, SHARDED = {"processes": 2}, {"processes": 2, "sharding": "fsdp2"}
# Gradients beyond their bound, which Composer's own clipping would leave as they are under FSDP2.
CHANGES: dict[str, Any] = {"optimizer": {"clip_norm": 0.5, "warmup_samples": 16}, "every": {"evaluate": 3}}


def ignore(event: Event) -> None:
    """Do nothing: the events are read after the launch."""


def stop_at_4(spec: RunSpec) -> RunSpec:
    """Stop the run at about step 4."""

    def stop(event: Event) -> None:
        if event["kind"] == "step" and event["step"] == 4:
            spec.stop_flag.touch()

    assert not launch(spec, stop).finished
    return spec


def weights(spec: RunSpec) -> dict[str, torch.Tensor]:
    return load_file(Path(spec.model_folder) / "model.safetensors")


def metrics(spec: RunSpec) -> list[dict[str, float]]:
    return [event["metrics"] for event in read_all(spec.events) if event["kind"] == "evaluation"]


def test_sharded_training_is_the_same_training(spec_of: SpecOf) -> None:
    plain, whole = spec_of("plain", launch=PLAIN, **CHANGES), spec_of("whole", launch=SHARDED, **CHANGES)
    assert launch(plain, ignore).finished
    assert launch(whole, ignore).finished
    assert list(losses(whole)) == list(losses(plain)) == list(range(1, 10))
    assert losses(whole) == pytest.approx(losses(plain), rel=1e-6)
    assert metrics(whole) == metrics(plain)
    assert len(metrics(whole)) == 3
    expected, found = weights(plain), weights(whole)
    assert {name: value.shape for name, value in found.items()} == {n: value.shape for n, value in expected.items()}
    # The sum over all weights: where a gradient is rounding noise only, as for the bias of a key, Adam makes full steps of it.
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    assert difference < 1e-8 * sum(float(value.square().sum()) for value in expected.values())
    load_model_folder(Path(whole.model_folder))

    # With chunks every block is recomputed in the backward pass, for which it must be gathered.
    chunked = spec_of("chunked", launch={**SHARDED, "chunk_size": 3}, **CHANGES)
    assert launch(chunked, ignore).finished
    assert losses(chunked) == pytest.approx(losses(plain), rel=1e-6)

    # A resumed run ends with the same bits.
    again = stop_at_4(spec_of("again", launch=SHARDED, **CHANGES))
    assert launch(again, ignore).finished
    assert losses(again) == losses(whole)
    assert all(torch.equal(value, found[name]) for name, value in weights(again).items())

    # Checkpoints are unsharded: sharding and the number of ranks may change when a run resumes.
    for name, first, then in (("gathered", SHARDED, {"processes": 1}), ("shared out", PLAIN, SHARDED)):
        stop_at_4(spec_of(name, launch=first, **CHANGES))
        changed = spec_of(name, launch=then, **CHANGES)
        assert launch(changed, ignore).finished
        assert losses(changed) == pytest.approx(losses(plain), rel=1e-5), name


@pytest.mark.parametrize("launched", [PLAIN, SHARDED], ids=["plain", "sharded"])
def test_bf16_communication_changes_the_losses_little_and_resumes_with_the_same_bits(
    spec_of: SpecOf, launched: dict[str, Any]
) -> None:
    exact = spec_of("exact", launch=launched, **CHANGES)
    rounded = spec_of("rounded", launch={**launched, "communication": "bf16"}, **CHANGES)
    assert launch(exact, ignore).finished
    assert launch(rounded, ignore).finished
    assert losses(rounded) == pytest.approx(losses(exact), rel=1e-2)
    assert losses(rounded) != losses(exact)
    again = stop_at_4(spec_of("again", launch={**launched, "communication": "bf16"}, **CHANGES))
    assert launch(again, ignore).finished
    assert losses(again) == losses(rounded)
    found = weights(rounded)
    assert all(torch.equal(value, found[name]) for name, value in weights(again).items())


def test_a_moving_average_is_that_of_plain_training_and_resumes_with_the_same_bits(spec_of: SpecOf) -> None:
    averaged = {**CHANGES, "ema": {"half_life_batches": 2}}
    plain, whole = spec_of("plain", launch=PLAIN, **averaged), spec_of("whole", launch=SHARDED, **averaged)
    assert launch(plain, ignore).finished
    assert launch(whole, ignore).finished
    expected, found = weights(plain), weights(whole)
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    assert difference < 1e-8 * sum(float(value.square().sum()) for value in expected.values())
    again = stop_at_4(spec_of("again", launch=SHARDED, **averaged))
    assert launch(again, ignore).finished
    assert losses(again) == losses(whole)
    assert metrics(again)[-1] == metrics(whole)[-1]
    assert all(torch.equal(value, found[name]) for name, value in weights(again).items())
    # The average travels unsharded too.
    changed = stop_at_4(spec_of("changed", launch=SHARDED, **averaged))
    changed = spec_of("changed", launch={"processes": 1}, **averaged)
    assert launch(changed, ignore).finished
    difference = sum(float((weights(changed)[name] - found[name]).square().sum()) for name in found)
    assert difference < 1e-6 * sum(float(value.square().sum()) for value in found.values())


def test_a_model_that_composer_has_not_sharded_is_refused() -> None:
    from clips_pipeline.training import sharding

    with pytest.raises(
        ConfigError, match=r"sharding: fsdp2, but Composer has not sharded \d+ parameters \(logit_scale"
    ):
        sharding.check_sharded("fsdp2", sharding.reshape_scalars(ClipsModel(SIZES["tiny"])))


def test_the_model_outside_training_shares_its_memory_and_has_the_usual_shapes() -> None:
    from clips_pipeline.training import sharding

    usual = ClipsModel(SIZES["tiny"])
    shapes = {name: value.shape for name, value in usual.state_dict().items()}
    trained = sharding.reshape_scalars(usual)
    trained.vision.register_buffer("made_once", torch.arange(3), persistent=False)
    found = sharding.full_model(trained.eval())
    assert {name: value.shape for name, value in found.state_dict().items()} == shapes
    assert all(tensor.device.type == "cpu" for tensor in (*found.parameters(), *found.buffers()))
    assert found.vision.made_once is trained.vision.made_once
    assert not found.training
    with torch.no_grad():
        trained.captioner.head.weight.zero_()
    assert not found.captioner.head.weight.any()
