"""When a rank should end before its work is done: a SIGTERM, or the death of the process that started it. Loads no torch.

Both only ask: the training saves a checkpoint after the step it is in and ends with exit code `INTERRUPTED`.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED = 75
"""Exit code of a training that was interrupted and goes on when it is started again (`EX_TEMPFAIL` of sysexits.h)."""

CTRL_C = "Ctrl-C"

PARENT = "CLIPS_PARENT_ON_STDIN"
"""Environment variable of ranks whose standard input ends with the process that started them."""

ORPHAN_SECONDS = 60.0
"""A rank without its parent ends by then, also where it waits for something that never comes."""


class Interrupt:
    """Whether this rank was asked to end, and by what."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """Ask; the first reason stays."""
        self.reason = self.reason or reason

    def listen(self) -> None:
        """From now on SIGTERM asks, and so does the end of the parent's pipe. Call it in the main thread."""
        # Composer has put a handler there that ends the process at once.
        signal.signal(signal.SIGTERM, lambda number, frame: self.ask("SIGTERM"))
        if os.environ.get(PARENT) == "1":
            threading.Thread(target=self._watch_parent, daemon=True, name="parent").start()

    @staticmethod
    def over() -> None:
        """From now on a SIGTERM changes nothing, for a process that ends anyway. Call it in the main thread.

        Python gives signals their defaults back before it has taken itself apart, so that a second SIGTERM (a cluster tells
        every process, and so does the process that follows) would end a rank that has saved all with another exit code.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _watch_parent(self) -> None:
        while os.read(0, 1):
            pass
        self.ask("the process that started it is gone")
        threading.Event().wait(ORPHAN_SECONDS)
        os._exit(INTERRUPTED)


class InterruptHandler:
    """Notes a SIGTERM or Ctrl-C to this process instead of dying of it, while the context lasts and in the main thread only.

    A second Ctrl-C is a `KeyboardInterrupt` as ever, for those who do not want to wait.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def asked(self) -> bool:
        """Whether one came."""
        return self.by is not None

    def __enter__(self) -> "InterruptHandler":
        """Put the handlers there."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.by == CTRL_C:
            raise KeyboardInterrupt
        self.by = CTRL_C if number == signal.SIGINT else "SIGTERM"

    def __exit__(self, *exception: object) -> None:
        """Put the former ones back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def exit_code_after(asked_by: str | None) -> int:
    """Of a command whose training was interrupted; after Ctrl-C the shell's own, so that no loop starts it again."""
    return 128 + signal.SIGINT if asked_by == CTRL_C else INTERRUPTED
