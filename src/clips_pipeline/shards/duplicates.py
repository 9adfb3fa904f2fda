"""Samples that repeat an earlier one of another job, found in bounded memory however many there are.

Hashes are parted by their first bits into files that fit in memory; in each of them, equal hashes stand side by side once it
is sorted. What is found is parted again, by jobs, because it is asked for job by job.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.shards.job_files import JobFiles

# 16 bytes each, and as much again to sort them: about 1 GB at a time.
HASHES_AT_A_TIME = 16_000_000
# Files of parts that are open at the same time.
_MOST_PARTS = 512
_JOBS_PER_FILE = 256

_HASH = np.dtype([("value", "<u8"), ("job", "<u4"), ("place", "<u4")])
_FOUND = np.dtype([("job", "<u4"), ("place", "<u4")])


class Found:
    """Places in the rows of jobs, on disk.

    Attributes:
        total: number of places.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self.total = folder, 0
        self._group = -1
        self._places: NDArray[np.void] = np.zeros(0, _FOUND)

    def add(self, jobs: NDArray[Any], places: NDArray[Any]) -> None:
        """More places, in any order."""
        found = np.empty(len(jobs), _FOUND)
        found["job"], found["place"] = jobs, places
        self.total += len(found)
        groups = found["job"] // _JOBS_PER_FILE
        for group in np.unique(groups).tolist():
            with self._file(group).open("ab") as file:
                file.write(found[groups == group].tobytes())

    def of(self, job: int) -> NDArray[np.int64]:
        """The places of a job, in order. Quick when jobs are asked for in order."""
        group = job // _JOBS_PER_FILE
        if group != self._group:
            file = self._file(group)
            found = np.fromfile(file, _FOUND) if file.is_file() else np.zeros(0, _FOUND)
            self._group, self._places = group, np.sort(found, order=("job", "place"))
        first, end = np.searchsorted(self._places["job"], [job, job + 1])
        return self._places["place"][first:end].astype(np.int64)

    def _file(self, group: int) -> Path:
        return self._folder / f"{group:06d}"


def repeated(
    jobs: list[JobFiles],
    column: str,
    folder: Path,
    *,
    without: Callable[[int], NDArray[np.int64]],
    at_a_time: int = HASHES_AT_A_TIME,
) -> Found:
    """Places in the rows of jobs whose value in `column` stands earlier in the same job or in an earlier one.

    Args:
        jobs: in order, all done; numbers say where each stands in this list.
        column: of `job_files.ROW`: `key`, `image` or `caption`.
        folder: for files of this work; does not exist yet.
        without: places of a job that do not count.
        at_a_time: hashes in memory.
    """
    folder.mkdir(parents=True)
    total = sum(len(job.load_rows()) for job in jobs)
    bits = min(max(-(-total // at_a_time) - 1, 0).bit_length(), _MOST_PARTS.bit_length() - 1)
    parts = [folder / f"part-{number:04d}" for number in range(1 << bits)]
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for number, job in enumerate(jobs):
            values = job.load_rows()[column]
            places = np.delete(np.arange(len(values)), without(number))
            counted = np.empty(len(places), _HASH)
            counted["value"], counted["job"], counted["place"] = values[places], number, places
            for at, some in _parted(counted, bits):
                files[at].write(some.tobytes())
    found = Found(folder / "found")
    for part in parts:
        hashes: NDArray[np.void] = np.fromfile(part, _HASH)
        part.unlink()
        # Stable: among equals, the order of jobs and places stays.
        order = np.argsort(hashes["value"], kind="stable")
        values = hashes["value"][order]
        again = hashes[order[1:][values[1:] == values[:-1]]]
        found.add(again["job"], again["place"])
    return found


def _parted(hashes: NDArray[np.void], bits: int) -> Iterator[tuple[int, NDArray[np.void]]]:
    if bits == 0:
        yield 0, hashes
        return
    part = (hashes["value"] >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(part, kind="stable")
    edges = np.searchsorted(part[order], np.arange((1 << bits) + 1))
    for number in range(1 << bits):
        if edges[number] < edges[number + 1]:
            yield number, hashes[order[edges[number] : edges[number + 1]]]
