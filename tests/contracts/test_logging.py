"""Log lines and progress through the project's own `conf/logging.yml`: data in them is text and nothing else."""

import io
import logging
import logging.config
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.terminal import run_in_terminal

from clips_pipeline.io.terminal import PlainHandler, escape_controls, protect_output
from clips_pipeline.training.events.progress import Progress

HOSTILE = (
    "closing [/b] tag",
    "[link=https://example.org]click[/link]",
    "escape \x1b]0;title\x07 and \x1b[2J",
    "right to left \u202egpj.exe",
    "NUL \x00, delete \x7f, C1 \x9b31m",
    "lone surrogate \udcff",
)


@pytest.fixture(params=["terminal", "file"])
def handler(request: pytest.FixtureRequest, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The handler of `conf/logging.yml`, as it is in a terminal and elsewhere."""
    handlers, level = list(logging.root.handlers), logging.root.level
    logging.config.dictConfig(yaml.safe_load((repository / "conf" / "logging.yml").read_text()))
    if request.param == "terminal":
        monkeypatch.setattr(Console, "is_terminal", True)
    protect_output()
    monkeypatch.undo()
    (found,) = logging.root.handlers
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_line_shows_the_text_as_it_is(handler: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    if isinstance(handler, PlainHandler):
        monkeypatch.setattr(sys, "stdout", stream)
    else:
        handler.console = Console(file=stream, width=200, force_terminal=False)
    log = logging.Logger("of its own")  # pytest-xdist cannot send what pytest would capture of these texts
    log.addHandler(handler)
    log.warning("left out: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    found = stream.getvalue()
    assert found.count(escape_controls(text)) >= 2
    assert all(letter.isprintable() or letter in "\n\t" for letter in found)


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_shows_the_text_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("clips_pipeline.training.events.progress")
    for name, value in (("handlers", [PlainHandler()]), ("propagate", False), ("disabled", False)):
        monkeypatch.setattr(log, name, value)
    level = log.level
    log.setLevel(logging.INFO)
    progress = Progress(10)
    progress.show({"kind": "stall", "rank": 0, "seconds": 9.0, "worker": 1, "shard": text})
    progress.show({"kind": "damaged", "path": "p", "reason": text, "instead": None})
    progress.show({"kind": "changed", "step": 3, "values": {"train.seed": [text, 1]}})
    progress.show({"kind": "interrupted", "step": 3, "reason": text})
    log.setLevel(level)
    found = capsys.readouterr().out
    assert found.count(escape_controls(text)) == 4
    assert all(letter.isprintable() or letter == "\n" for letter in found)


def test_a_run_escapes_its_log_lines(repository: Path) -> None:
    """`settings.py` does it, in the process of `kedro run`."""
    code = (
        "from kedro.framework.startup import bootstrap_project; import logging, sys;"
        "bootstrap_project(sys.argv[1]); logging.getLogger('clips_pipeline.x').warning('%s', 'a [/b] \\x1b[2J')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(repository)], capture_output=True, text=True, check=True)
    assert r"a [/b] \x1b[2J" in done.stdout + done.stderr


def test_log_lines_of_a_file_are_not_broken(repository: Path) -> None:
    code = (
        "from kedro.framework.startup import bootstrap_project; import logging, sys;"
        "bootstrap_project(sys.argv[1]); logging.getLogger('clips_pipeline.x').warning('word ' * 60)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(repository)], capture_output=True, text=True, check=True)
    assert any("WARNING " + "word " * 60 in line for line in done.stdout.splitlines())
    shown = run_in_terminal([sys.executable, "-c", code, str(repository)], columns=70)
    assert len([line for line in shown if "word word" in line]) > 4  # a terminal gets the columns of rich


def test_escapes() -> None:
    assert escape_controls("a\x1b[2J\tb\n\u202e\udcff é 中") == "a\\x1b[2J\tb\n\\u202e\\udcff é 中"
