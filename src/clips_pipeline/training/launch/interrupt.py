"""Interrupts: SIGTERM, Ctrl-C, and the death of the process that started a rank. Does not import torch.

An interrupt is a request: the training saves a checkpoint after the current step and ends with exit code `INTERRUPTED`.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED = 75
"""Exit code of a training that was interrupted and resumes when it is started again (`EX_TEMPFAIL` of sysexits.h)."""

CTRL_C = "Ctrl-C"

PARENT = "CLIPS_PARENT_ON_STDIN"
"""Environment variable of ranks whose standard input closes when the process that started them ends."""

ORPHAN_SECONDS = 60.0
"""A rank without a parent ends within this time, even if it waits in a collective operation that never completes."""


class Interrupt:
    """Whether this rank was interrupted, and why."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def request(self, reason: str) -> None:
        """Record an interrupt. The first reason is kept."""
        self.reason = self.reason or reason

    def install(self) -> None:
        """Make SIGTERM and the end of the parent's pipe request an interrupt. Call it in the main thread."""
        # Composer has installed a handler that ends the process at once.
        signal.signal(signal.SIGTERM, lambda number, frame: self.request("SIGTERM"))
        if os.environ.get(PARENT) == "1":
            watch_parent(self._end_as_orphan)

    @staticmethod
    def ignore_sigterm() -> None:
        """Ignore SIGTERM from now on, in a process that is about to end. Call it in the main thread.

        Python restores the default signal handlers before it has finished its own shutdown. A second SIGTERM (a cluster signals
        every process, and so does the launcher) would then change the exit code of a rank that has saved its checkpoint.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _end_as_orphan(self) -> None:
        self.request("the process that started it is gone")
        threading.Event().wait(ORPHAN_SECONDS)
        os._exit(INTERRUPTED)


def watch_parent(on_end: Callable[[], None]) -> None:
    """Call a function, in a thread, when the process on the other side of standard input ends (`PARENT`)."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        on_end()

    threading.Thread(target=wait, daemon=True, name="parent").start()


class InterruptHandler:
    """Context that records SIGTERM and Ctrl-C instead of ending this process; it acts in the main thread only.

    A second Ctrl-C raises `KeyboardInterrupt` as usual, for users who do not want to wait.
    """

    def __init__(self) -> None:
        self.source: str | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def interrupted(self) -> bool:
        """Whether a signal has arrived."""
        return self.source is not None

    def __enter__(self) -> "InterruptHandler":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.source == CTRL_C:
            raise KeyboardInterrupt
        self.source = CTRL_C if number == signal.SIGINT else "SIGTERM"

    def __exit__(self, *exception: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def exit_code_after(interrupt_source: str | None) -> int:
    """Return the exit code of an interrupted command: 130 after Ctrl-C, as shells expect, so that no loop restarts it."""
    return 128 + signal.SIGINT if interrupt_source == CTRL_C else INTERRUPTED
