"""Checkpoints that were damaged or replaced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.drills.conftest import assert_same_weights
from tests.integration.conftest import SpecOf, output_of

from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.launcher import TrainingFailedError, launch
from clips_pipeline.training.resume import checkpoint_store
from clips_pipeline.training.resume.checkpoint_store import STATE
from clips_pipeline.training.run_spec import RunSpec

pytestmark = pytest.mark.slow


def stopped_at_4(spec: RunSpec) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 4:
            spec.stop_flag.touch()

    assert not launch(spec, stop).finished


def test_after_a_flipped_bit_the_previous_checkpoint_is_used(spec_of: SpecOf, whole: RunSpec) -> None:
    spec = spec_of("flipped")
    stopped_at_4(spec)
    newest = max(spec.checkpoints.glob("ba*"), key=lambda path: int(path.name[2:]))
    with (newest / STATE).open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 4]))
    assert launch(spec, lambda event: None).finished
    events = read_all(spec.events)
    refused = next(event for event in events if event["kind"] == "damaged")
    assert refused["path"].endswith(f"/damaged-{newest.name}")
    assert "state.pt has another checksum" in refused["reason"]
    restart = [event for event in events if event["kind"] == "start"][1]
    assert restart["resumed_from"] == refused["instead"] != str(newest)
    assert "damaged checkpoint, moved to " in output_of(spec.run_folder)
    assert_same_weights(spec, whole)


def test_a_checkpoint_of_another_model_is_refused_before_the_first_step(spec_of: SpecOf) -> None:
    other, spec = spec_of("other", captions={"target_length": 64}), spec_of("spec")
    stopped_at_4(other)
    (state, *_) = (found.state.read_bytes() for found in checkpoint_store.list_checkpoints(other.checkpoints))
    # With the other spec beside it, that would be refused first.
    files = {STATE: lambda file: file.write(state), checkpoint_store.SPEC: checkpoint_store.text_writer(spec.text)}
    checkpoint_store.save(spec.checkpoints, 4, files, keep=2)
    with pytest.raises(
        TrainingFailedError, match=r"captioner\.queries_QD is \(64, \d+\) there and \(128, \d+\) here"
    ) as error:
        launch(spec, lambda event: None)
    assert "move" in str(error.value)
    assert [event["kind"] for event in read_all(spec.events)] == ["error"]


class HarmfulObject:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


def test_a_checkpoint_is_never_unpickled(spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Even if its checksums are right, as in a file that was made on purpose."""
    monkeypatch.chdir(tmp_path)
    spec = spec_of("foreign")
    files: dict[str, checkpoint_store.ContentWriter] = {
        STATE: lambda file: torch.save({"state": {"model": HarmfulObject()}}, file),  # type: ignore[arg-type]
        checkpoint_store.SPEC: checkpoint_store.text_writer(spec.text),
    }
    checkpoint_store.save(spec.checkpoints, 2, files, keep=2)
    with pytest.raises(TrainingFailedError, match="is no checkpoint of this program"):
        launch(spec, lambda event: None)
    assert not (tmp_path / "harmed").exists()
