"""Shared memory of the loader workers: /dev/shm is 64 MiB in a container by default, and a worker that finds it full dies."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from clips_pipeline.config import ConfigError

log = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")  # noqa: S108 - of the system, and nothing is written by name

# Token ids and keys of a sample, generously.
_ROW_BYTES = 8192
_LONGEST_SOCKET_PATH = 107  # of Linux, without the NUL

REMEDIES = (
    "give the container more (`docker run --shm-size=2g`, or --ipc=host), lower train.launch.prefetch_batches or "
    "train.launch.loader_workers, or set loader_workers to 0, which needs none"
)


def fitting_prefetch(workers: int, prefetch_batches: int, samples: int, image_size: int) -> int | None:
    """Return `prefetch_batches`, or fewer if /dev/shm has no room for them, which is logged; None without workers.

    Args:
        workers: number of loader workers of this rank.
        prefetch_batches: batches that each of them prepares ahead.
        samples: samples of this rank in a batch.
        image_size: pixels per side.

    Raises:
        ConfigError: there is no room even for one batch per worker, with both sizes and the remedies; or the path of the
            folder for temporary files is too long.
    """
    if not workers:
        return None
    _check_socket_path()
    if not FOLDER.is_dir():
        return prefetch_batches
    ranks, free = _ranks(), shutil.disk_usage(FOLDER).free

    def needed(prefetch: int) -> int:
        return _needed(workers * prefetch, samples, image_size)

    fitting = next((prefetch for prefetch in range(prefetch_batches, 0, -1) if needed(prefetch) <= free), None)
    if fitting is None:
        raise ConfigError(
            f"train.launch.loader_workers: {workers} loader workers need {_mib(needed(1))} of shared memory for {ranks} ranks, "
            f"even with prefetch_batches 1, and {FOLDER} has {_mib(free)} free; {REMEDIES}"
        )
    if fitting < prefetch_batches:
        log.warning(
            "train.launch.prefetch_batches: %d batches ahead need %s of shared memory, and %s has %s free; %d are used",
            prefetch_batches,
            _mib(needed(prefetch_batches)),
            FOLDER,
            _mib(free),
            fitting,
        )
    return fitting


def fitting_workers(workers: int, samples: int, image_size: int) -> int:
    """Return `workers`, or as many as /dev/shm has room for with one batch each; arguments as in `fitting_prefetch`."""
    if not FOLDER.is_dir():
        return workers
    free = shutil.disk_usage(FOLDER).free
    return next((count for count in range(workers, 0, -1) if _needed(count, samples, image_size) <= free), 0)


def _ranks() -> int:
    """Return the number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _needed(batches: int, samples: int, image_size: int) -> int:
    """Return the bytes of this many prepared batches of each rank.

    The trainer holds one more, and a second while it takes the next: by then a worker may have begun another.
    """
    return _ranks() * samples * (3 * image_size**2 + _ROW_BYTES) * (batches + 2)


def _check_socket_path() -> None:
    """Raise if a loader worker could not send its batches: it opens a socket below the folder for temporary files."""
    folder = tempfile.gettempdir()
    allowed = _LONGEST_SOCKET_PATH - len("/pymp-12345678/listener-12345678")
    if len(os.fsencode(folder)) > allowed:
        raise ConfigError(
            f"TMPDIR: {folder} has {len(os.fsencode(folder))} bytes, and the sockets of loader workers allow {allowed}; set it to "
            "a shorter path, or set train.launch.loader_workers to 0"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
