"""What must be free: disk, temporary files, shared memory and ports."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator

from line import ERROR, OK, ROOT, WARN, Line

# The environment takes 7 GB; pip and uv keep downloads of 3 GB while they install it.
INSTALL_GB, RUN_GB = 12.0, 3.0
PORTS = ((5000, "make mlflow-ui"), (4141, "make viz"), (8080, "make dashboard"))
# Unix sockets have names of at most 108 bytes (104 on macOS); processes that share data add up to 45 to TMPDIR.
MOST_TMPDIR = 60


def disk(needs: float | None) -> Iterator[Line]:
    """Space for the environment, and where it exists, for the results.

    Args:
        needs: GB that must be free; None chooses by whether `.venv` exists.
    """
    installed = (ROOT / ".venv" / ".installed").exists()
    needs = needs if needs is not None else RUN_GB if installed else INSTALL_GB
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < needs:
        remedy = "free some, or move the checkout to a larger disk"
        yield Line(ERROR, "disk", f"{free:.1f} GB free in {ROOT}, {needs:g} GB are needed", remedy)
    else:
        yield Line(OK, "disk", f"{free:.0f} GB free in {ROOT}, {needs:g} GB are needed")
    folder, wanted = tempfile.gettempdir(), os.environ.get("TMPDIR")
    if wanted and os.path.realpath(wanted) != os.path.realpath(folder):
        yield Line(
            WARN, "temporary files", f"TMPDIR={wanted} cannot be written, {folder} is used", "create it or unset it"
        )
    free = shutil.disk_usage(folder).free / 1e9
    if free < 1:
        yield Line(
            WARN, "temporary files", f"{free:.2f} GB free in {folder}", "set TMPDIR to a folder with 1 GB or more"
        )
    elif len(folder) > MOST_TMPDIR:
        remedy = "set a shorter TMPDIR: names of sockets in it would be too long"
        yield Line(
            ERROR, "temporary files", f"{folder} has {len(folder)} characters, {MOST_TMPDIR} are the limit", remedy
        )
    else:
        yield Line(OK, "temporary files", folder)
    shared, gpus = "/dev/shm", glob.glob("/dev/nvidia[0-9]*")  # noqa: S108 - its size is read
    if len(gpus) > 1 and os.path.isdir(shared) and shutil.disk_usage(shared).total < 500e6:
        size = shutil.disk_usage(shared).total / 1e6
        remedy = "start the container with --shm-size=1g or more, which NCCL needs between GPUs"
        yield Line(WARN, "shared memory", f"{size:.0f} MB in {shared}", remedy)


def ports() -> Iterator[Line]:
    """The ports of the user interfaces, on loopback."""
    for port, target in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                used = error.errno == errno.EADDRINUSE
                found = "is used by another process" if used else str(error.strerror)
                remedy = f"end that process, or run `{target} PORT={port + 1}`"
                yield Line(WARN, f"port {port}", found, remedy)
            else:
                yield Line(OK, f"port {port}", f"is free for `{target}`")
