"""Free memory of this process: that of the machine, or what the limits of its container or batch job leave."""

from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Limit, use, and the key of memory.stat for cached files that nothing reads at present.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Return bytes. psutil knows no limit of a control group, which containers, Kubernetes, Slurm and systemd set.

    Cached files that nothing reads at present count as free: the kernel drops them before it refuses memory.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that names the groups of this process.
    """
    free = int(psutil.virtual_memory().available)
    for group, (limit, used, cached) in _groups(cgroups, own):
        try:
            left = int((group / limit).read_text()) - int((group / used).read_text())
        except (OSError, ValueError):
            continue  # no such file, or the limit is "max"
        free = min(free, max(0, left + _stat(group / "memory.stat", cached)))
    return free


def _groups(cgroups: Path, own: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the groups whose limits hold for this process, its own and those above, with the names of their files.

    A container may see its own group as the topmost one while `own` names it as the machine does.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", "0:memory:/", *lines]:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (cgroups / "memory", _VERSION_1) if controllers else (cgroups, _VERSION_2)
        group = top / path.strip("/")
        for folder in [group, *group.parents]:
            yield folder, names
            if folder == top:
                break


def _stat(file: Path, key: str) -> int:
    """Return a number of memory.stat; 0 if it is absent."""
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
