"""The line of a stage in a real terminal, in a notebook's kernel, and in a log."""

import logging
import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.terminal import raw_output, run_in_terminal, screen

from clips_pipeline import progress
from clips_pipeline.progress import Stage, count_finished, track

# Two stages, the second within the first, with everything that may write in between.
PROGRAM = """
import logging, sys, time
from kedro.logging import RichHandler
from clips_pipeline.progress import Stage, track
logging.basicConfig(level="INFO", handlers=[RichHandler(markup=False, show_path=False)], format="%(message)s")
with Stage("prepare", 3, "shards") as stage:
    for number in range(3):
        time.sleep(0.3)
        logging.getLogger("x").info(f"log line {number}")
        print(f"printed {number}")
        print(f"complaint {number}", file=sys.stderr)
        for _ in track(range(4), "embed", 4, "texts"):
            time.sleep(0.15)
        stage.advance(note="a [note]")
print("last words")
"""
COMMAND = [sys.executable, "-c", PROGRAM]


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_shows_one_line_and_keeps_all_others(columns: int) -> None:
    written = raw_output(COMMAND, columns=columns)
    lines = screen(written)
    ours = [line for line in lines if line.startswith("prepare")]
    assert len(ours) == 1
    assert re.search(r"3 of 3 shards a \[note\] in \d s$", ours[0])
    assert "━" in ours[0]
    assert [line.rsplit(" ", 1)[-1] for line in lines if line.startswith("printed")] == ["0", "1", "2"]
    assert [line for line in lines if line.startswith("complaint")] == [f"complaint {number}" for number in range(3)]
    assert [line.split("log")[1].strip() for line in lines if "log line" in line] == [f"line {n}" for n in range(3)]
    assert lines[-1] == "last words"
    assert max(map(len, lines)) <= columns
    assert "embed: 2 of 4 texts" in written or columns < 80
    assert ("…" in written) == (columns < 80)  # what has no room is cut
    assert " left" in written
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")  # the cursor is there


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("CI", "true"), ("TERM", "dumb")])
def test_no_line_is_redrawn_where_that_is_not_wanted(variable: tuple[str, str]) -> None:
    written = raw_output(COMMAND, environment=dict([variable]))
    assert "━" not in written
    assert "\x1b[1A" not in written
    assert "\x1b[2K" not in written
    assert " ".join(" ".join(screen(written)).split()).count("prepare: 3 of 3 shards") == 1


def test_a_pipe_gets_plain_lines() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == "".join(f"complaint {number}\n" for number in range(3))
    assert done.stdout.count("3 of 3 shards") == 1


def test_what_goes_to_a_file_stays_there(tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    shell = ["bash", "-c", f'"$0" -c "$1" 2>{errors}', sys.executable, PROGRAM]
    lines = run_in_terminal(shell)
    assert errors.read_text() == "".join(f"complaint {number}\n" for number in range(3))
    assert not [line for line in lines if "complaint" in line]
    assert len([line for line in lines if line.startswith("prepare")]) == 1


def test_an_error_ends_the_line_before_the_message() -> None:
    program = (
        "from clips_pipeline.progress import Stage\n"
        "with Stage('train', 9, 'steps') as stage:\n    stage.advance(4)\n    raise SystemExit('broken')"
    )
    code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {program!r}]).returncode != 1)"
    lines = run_in_terminal([sys.executable, "-c", code])
    assert lines[0].startswith("train")
    assert "4 of 9 steps" in lines[0]
    assert lines[1] == "broken"


def test_log_lines_come_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, "clips_pipeline")
    with Stage("train", 1000, "steps") as stage:
        for step in range(1, 1001):
            clock[0] += 1.0
            stage.update(step, f"loss {step}")
    assert caplog.messages[0] == "train: 100 of 1,000 steps (10%), loss 100, 15 min left"
    assert len(caplog.messages) == 10
    assert caplog.messages[-1] == "train: 1,000 of 1,000 steps, loss 1000, in 17 min"
    caplog.clear()
    with Stage("train", 1_000_000, "steps") as stage:
        for step in range(1, 1001):
            clock[0] += 1.0
            stage.update(step)
    assert [line.split(" of")[0] for line in caplog.messages[:-1]] == ["train: 301", "train: 602", "train: 903"]


def test_time_left_counts_from_the_first_step_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Stage("train", 100, "steps", logs=False) as resumed:
        assert resumed.seconds_left is None
        clock[0] = 60.0  # ranks start
        resumed.update(50)
        assert resumed.seconds_left is None
        clock[0] = 70.0
        resumed.update(60)
        assert resumed.seconds_left == pytest.approx(40.0)
    clock[0] = 0.0
    with Stage("search", 4, "trials", logs=False) as outer, Stage("trial 0", 10, "steps") as inner:
        clock[0] = 5.0
        inner.update(5)
        assert outer.fraction == pytest.approx(0.125)
        assert outer.seconds_left == pytest.approx(35.0)
        assert outer.remarks == "trial 0: 5 of 10 steps"
    with Stage("embed", 10, "shards", done=6, logs=False) as stage:
        clock[0] = 7.0
        stage.advance()
        assert stage.seconds_left == pytest.approx(6.0)


def test_a_notebook_gets_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def __init__(self) -> None:
            self.shown = shown

        def update(self, made: dict[str, str], raw: bool) -> None:
            assert raw
            self.shown.append(made["text/html"])

    first: list[Any] = []

    def display(made: Any, display_id: bool, raw: bool) -> Handle:
        first.append(made)
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    with Stage("evaluate", 2, "images", note="<b>") as stage:
        for _ in track(range(2), "embed", 2, "texts"):
            pass
        stage.advance(2)
    assert len(first) == 1
    assert "2 of 2 images  &lt;b&gt;  in 0 s" in shown[-1]


def _say_something(path: str) -> None:
    logging.basicConfig(filename=path, level="INFO")
    with Stage("evaluate", 1, "images") as stage:
        stage.advance()
    logging.info("end")


def test_processes_that_a_stage_starts_show_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = multiprocessing.get_context("spawn").Process(target=_say_something, args=(str(log),))
    process.start()
    process.join(30)
    assert log.read_text() == "INFO:root:end\n"


def test_work_that_leaves_files_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        def __init__(self, number: int) -> None:
            self.file = tmp_path / str(number)

        @property
        def is_done(self) -> bool:
            return self.file.exists()

    monkeypatch.setattr(progress, "_POLL_S", 0.01)
    parts = [Part(number) for number in range(3)]
    stage = Stage("embed", 5, "shards", done=2, logs=False)
    with stage, count_finished(stage, parts):
        parts[1].file.touch()
        limit = time.monotonic() + 10
        while stage.done != 3 and time.monotonic() < limit:
            time.sleep(0.01)
        assert stage.done == 3
        parts[0].file.touch()
    assert stage.done == 4


def test_a_generator_that_is_left_early_ends_its_stage() -> None:
    with Stage("evaluate", None, "images", logs=False) as stage:
        for item in track(range(5), "embed", 5, "texts"):
            if item == 2:
                break
        assert stage.remarks == ""
    assert progress._active == []
