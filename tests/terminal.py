"""A real terminal for a program, and what a person sees in it afterwards."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

# Colors and modes; then cursor up, erase the line, carriage return, line feed; then text.
_PARTS = re.compile(
    r"\x1b\[[0-9;]*m|\x1b\[\?[0-9]+[hl]|\x1b\[(?P<up>[0-9]*)A|(?P<erase>\x1b\[2K)|(?P<move>[\r\n])|(?P<text>[^\x1b\r\n]+)"
)


def run_in_terminal(
    command: Sequence[str], *, columns: int = 80, environment: Mapping[str, str] | None = None, seconds: float = 60
) -> list[str]:
    """Run a program in a terminal and return the lines that it leaves there, without empty ones at the end."""
    return screen(raw_output(command, columns=columns, environment=environment, seconds=seconds))


def raw_output(
    command: Sequence[str], *, columns: int = 80, environment: Mapping[str, str] | None = None, seconds: float = 60
) -> str:
    """Run a program in a terminal and return all that it writes."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI", "COLUMNS", "LINES")}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **(environment or {})},
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    try:
        while part := _read(ours):
            written += part
        code = process.wait(seconds)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert code == 0, written.decode(errors="replace")
    return written.decode(errors="replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the last program has closed it
        return b""


def screen(written: str) -> list[str]:
    """Return the lines on the screen after a terminal has got `written`. Lines are not wrapped."""
    lines, row, column = [""], 0, 0
    for part in _PARTS.finditer(written):
        if part["text"]:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part["text"] + line[column + len(part["text"]) :]
            column += len(part["text"])
        elif part["erase"]:
            lines[row] = ""
        elif part["up"] is not None:
            row = max(0, row - int(part["up"] or 1))
        elif part["move"] == "\r":
            column = 0
        elif part["move"] == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
    shown = [line.rstrip() for line in lines]
    while shown and not shown[-1]:
        shown.pop()
    return shown
