"""Checkpoints written in the background: what is saved, who waits, and where an error appears."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composer.core import Callback, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from tests.unit.training.test_composer_parts import Line

from clips_pipeline.io.disk_errors import CannotWriteError
from clips_pipeline.training.events.event_log import EventWriter, read_all
from clips_pipeline.training.resume import checkpoint_callback, checkpoint_store
from clips_pipeline.training.resume.checkpoint_callback import CheckpointCallback
from clips_pipeline.training.resume.snapshot import snapshot

Make = Callable[..., tuple[CheckpointCallback, State]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes the callback, with a checkpoint at every step, and the state of a small training."""
    with EventWriter(tmp_path / "events.jsonl") as writer:

        def both(*, background: bool = True) -> tuple[CheckpointCallback, State]:
            model = Line()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            state = State(
                rank_zero_seed=0,
                run_name="run",
                model=model,
                optimizers=optimizer,
                device=DeviceCPU(),
                callbacks=[Callback()],
                max_duration="9ba",
            )
            saver = CheckpointCallback(writer, tmp_path / "ba", "1ba", 3, "spec", "code", background=background)
            train(state)
            return saver, state

        yield both


def train(state: State) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizers[0].step()
    state.previous_timestamp, state.timestamp = state.timestamp, state.timestamp.to_next_batch()


def save(saver: CheckpointCallback, state: State) -> None:
    saver.batch_checkpoint(state, Logger(state))


def weights(state: State) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in state.model.parameters()]


def saved(tmp_path: Path, step: int) -> list[torch.Tensor]:
    checkpoint_callback.force_weights_only_loading()
    content = torch.load(tmp_path / "ba" / f"ba{step}" / checkpoint_store.STATE, weights_only=True)
    return list(content["state"]["model"].values())


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every write until the event is set."""
    opened, plain = threading.Event(), checkpoint_store.save

    def held(*arguments: Any) -> Path:
        assert opened.wait(60.0)
        return plain(*arguments)

    monkeypatch.setattr(checkpoint_store, "save", held)
    return opened


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(found) == len(wanted) > 0 and all(map(torch.equal, found, wanted))


def test_steps_go_on_while_the_state_of_their_step_is_written(
    make: Make, gate: threading.Event, tmp_path: Path
) -> None:
    saver, state = make()
    before = weights(state)
    save(saver, state)
    assert not saver.has_failed()
    assert not (tmp_path / "ba" / "ba1").exists()
    train(state)
    assert not same(weights(state), before)
    gate.set()
    saver.fit_end(state, Logger(state))
    assert same(saved(tmp_path, 1), before)
    assert checkpoint_store.find_damage(tmp_path / "ba" / "ba1") is None
    (event,) = read_all(tmp_path / "events.jsonl")
    assert (event["kind"], event["step"]) == ("checkpoint", 1)
    assert 0 <= event["waited"] <= event["seconds"]


def test_the_next_checkpoint_waits_for_the_one_before(make: Make, gate: threading.Event, tmp_path: Path) -> None:
    saver, state = make()
    save(saver, state)
    train(state)
    second = threading.Thread(target=save, args=(saver, state))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    gate.set()
    second.join(60.0)
    assert not second.is_alive()
    saver.close(state, Logger(state))
    assert [event["step"] for event in read_all(tmp_path / "events.jsonl")] == [1, 2]
    assert same(saved(tmp_path, 2), weights(state))


def test_an_error_of_the_thread_is_raised_later_and_once_the_training_ends(make: Make, tmp_path: Path) -> None:
    (tmp_path / "ba").write_text("a file where the folder of the checkpoints should be")
    saver, state = make()
    save(saver, state)  # raises nothing
    assert saver._writing is not None
    saver._writing.exception(60.0)
    assert saver.has_failed()
    for _ in range(2):
        with pytest.raises(CannotWriteError, match=r"ba1: cannot be written"):
            saver.finish()
    with pytest.raises(CannotWriteError, match=r"ba1: cannot be written"):
        save(saver, state)
    saver.close(state, Logger(state))
    assert list(read_all(tmp_path / "events.jsonl")) == []


def test_after_another_error_the_checkpoint_is_finished(make: Make, gate: threading.Event, tmp_path: Path) -> None:
    saver, state = make()
    save(saver, state)
    threading.Timer(0.2, gate.set).start()
    saver.close(state, Logger(state))
    assert same(saved(tmp_path, 1), weights(state))


def test_without_background_the_step_waits_for_all_of_it(make: Make, tmp_path: Path) -> None:
    saver, state = make(background=False)
    save(saver, state)
    assert same(saved(tmp_path, 1), weights(state))
    (event,) = read_all(tmp_path / "events.jsonl")
    assert event["waited"] >= event["seconds"] > 0
    (tmp_path / "ba" / ".ba2.writing").write_text("in the way")
    train(state)
    with pytest.raises(CannotWriteError, match=r"ba2: cannot be written"):
        save(saver, state)


def test_a_snapshot_shares_nothing_and_keeps_all_types() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    state = {
        "model": OrderedDict(a=weight, b=weight.detach()[0]),
        "list": [(torch.ones(2, dtype=torch.bfloat16), 3, None)],
        "numpy": np.arange(3),
        "time": timedelta(seconds=3),
        "counts": {"x": [1]},
    }
    found: Any = snapshot(state)
    with torch.no_grad():
        weight.zero_()
    state["list"][0][0].zero_()  # type: ignore[index]
    state["numpy"][:] = 0  # type: ignore[index]
    state["counts"]["x"].append(2)  # type: ignore[index]
    assert isinstance(found["model"], OrderedDict)
    assert found["model"]["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found["model"]["b"].tolist() == [0.0, 1.0, 2.0]
    tensor, *rest = found["list"][0]
    assert (tensor.tolist(), tensor.dtype, rest) == ([1.0, 1.0], torch.bfloat16, [3, None])
    assert (found["numpy"].tolist(), found["time"], found["counts"]) == ([0, 1, 2], timedelta(seconds=3), {"x": [1]})
