"""Free memory of this process: that of the machine, or what a container's limit leaves."""

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and use, in version 2 and in version 1."""


def free_memory(cgroups: Path = _CGROUPS) -> int:
    """Return bytes. psutil knows no limit of a container.

    Args:
        cgroups: folder of the control groups, as a container sees its own.
    """
    free = int(psutil.virtual_memory().available)
    for limit, used in _FILES:
        try:
            left = int((cgroups / limit).read_text()) - int((cgroups / used).read_text())
        except (OSError, ValueError):
            continue  # no such file, or the limit is "max"
        free = min(free, max(0, left))
    return free
