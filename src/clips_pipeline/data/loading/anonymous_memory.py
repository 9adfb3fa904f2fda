"""Memory that a process shares with the processes that it starts.

It has no name, so nothing is left of it when they are killed, and no file system holds it: /dev/shm, which has only 64 MiB in a
container by default, is not used.
"""

import mmap
import os
import tempfile
import weakref
from multiprocessing import reduction
from typing import Any


class AnonymousMemory:
    """Memory of zeros, as an object with the buffer interface in `.buffer`. Child processes see the same bytes.

    Args:
        size: number of bytes.
    """

    def __init__(self, size: int) -> None:
        self._open(_new_file())
        os.ftruncate(self._file, size)
        self.buffer = mmap.mmap(self._file, size)

    def __reduce__(self) -> Any:
        # For a process that does not start as a copy of this one. The file stays open for it.
        return _attach, (reduction.DupFd(self._file), len(self.buffer))

    def _open(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("clips-pipeline")
    with tempfile.TemporaryFile() as file:  # not on Linux
        return os.dup(file.fileno())


def _attach(handle: Any, size: int) -> AnonymousMemory:
    memory = AnonymousMemory.__new__(AnonymousMemory)
    memory._open(handle.detach())
    memory.buffer = mmap.mmap(memory._file, size)
    return memory
