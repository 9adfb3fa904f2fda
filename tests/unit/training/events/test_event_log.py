"""Event log: complete lines, killed writers, repeated steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clips_pipeline.training.events.event_log import EventReader, EventWriter, read_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def writer(path: Path) -> Iterator[EventWriter]:
    with EventWriter(path) as writer:
        yield writer


def write(path: Path, kind: str, **values: Any) -> None:
    """Write one event as a separate process would."""
    with EventWriter(path) as writer:
        writer.write(kind, **values)


def test_reader_sees_only_complete_lines_and_each_once(path: Path) -> None:
    reader = EventReader(path)
    assert list(reader.read()) == []
    write(path, "step", step=1, losses={})
    assert [event["step"] for event in reader.read()] == [1]
    with path.open("ab") as file:
        file.write(b'{"kind": "step", "time"')
        file.flush()
        assert list(reader.read()) == []
        file.write(b': 0, "step": 2}\n')
    assert [event["step"] for event in reader.read()] == [2]
    assert list(reader.read()) == []


def test_a_resumed_rank_ends_the_partial_line_of_a_killed_one(path: Path) -> None:
    write(path, "step", step=1)
    with path.open("ab") as file:
        file.write(b'{"kind": "step", "st')
    write(path, "step", step=2)
    assert [event["step"] for event in read_all(path)] == [1, 2]


def test_former_keys_are_read(path: Path) -> None:
    write(path, "step", step=1, data_wait_share=0.25)
    (event,) = read_all(path)
    assert event["data_wait_fraction"] == 0.25
    assert "data_wait_share" not in event


def test_steps_trained_again_after_a_crash_are_returned_once(path: Path, writer: EventWriter) -> None:
    for step in (1, 2, 3, 2, 3, 4):
        writer.write("step", step=step)
    writer.write("evaluation", step=2, metrics={})
    writer.write("evaluation", step=2, metrics={})
    events = read_all(path)
    assert [event["step"] for event in events if event["kind"] == "step"] == [1, 2, 3, 4]
    assert sum(event["kind"] == "evaluation" for event in events) == 1


def test_a_later_start_continues_after_what_was_read(path: Path, writer: EventWriter) -> None:
    writer.write("step", step=1)
    first = EventReader(path)
    list(first.read())
    writer.write("step", step=1)
    writer.write("step", step=2)
    second = EventReader(path, first.offset, first.last_steps)
    assert [event["step"] for event in second.read()] == [2]
