"""Checkpoints as files: one folder each, complete or not there at all, with checksums. Loads neither torch nor Composer.

checkpoints/ba120/state.pt         what Composer needs to go on after step 120
checkpoints/ba120/run_spec.json    of the training that wrote it
checkpoints/ba120/code.txt         digest of the package's source that wrote it
checkpoints/ba120/checksums.json   bytes and SHA-256 of the files beside it
checkpoints/.ba120.writing/        while it is written; of a process that was killed, if no worker runs
checkpoints/damaged-ba120/         refused when it was to be used, kept for a look
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypedDict

from clips_pipeline.config import ConfigError
from clips_pipeline.io.atomic import sync_folder
from clips_pipeline.io.disk_errors import write_error

STATE = "state.pt"
SPEC = "run_spec.json"
CODE = "code.txt"
CHECKSUMS = "checksums.json"

_NAME = re.compile(r"ba(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums hold.

    Attributes:
        step: optimiser steps done.
        folder: its files.
    """

    step: int
    folder: Path

    @property
    def state(self) -> Path:
        """The file that Composer loads."""
        return self.folder / STATE


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A checkpoint that was refused.

    Attributes:
        folder: where it stood.
        moved_to: where it is now, out of the way of the one that will be written at this step again.
        reason: what is wrong with it.
    """

    folder: Path
    moved_to: Path
    reason: str


class Entry(TypedDict):
    """What `checksums.json` says of one file."""

    bytes: int
    sha256: str


class HashedFile:
    """A file for `torch.save`: counts and hashes what passes, and keeps its first failure for the caller.

    It does not raise within `write`: torch's writer is C++ and ends the whole process when it fails while it closes.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._sum = file, hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash; after a failure, do nothing."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        self._sum.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: it is flushed and synced once, at the end."""

    @property
    def entry(self) -> Entry:
        """As in `checksums.json`."""
        return Entry(bytes=self.bytes, sha256=self._sum.hexdigest())


Fill = Callable[[HashedFile], None]


def content(text: str) -> Fill:
    """What writes `text`."""

    def fill(file: HashedFile) -> None:
        file.write(text.encode())

    return fill


def save(folder: Path, step: int, files: dict[str, Fill], keep: int) -> Path:
    """Write the checkpoint of `step`, then delete the oldest beyond `keep`.

    It is written aside, synced and renamed, so that under its name it is complete, and older ones go only after that.

    Args:
        folder: of all checkpoints.
        step: optimiser steps done.
        files: by name, what writes the content.
        keep: checkpoints to keep; cut ones do not count.

    Returns:
        the folder of the new one.

    Raises:
        CannotWriteError: the disk is full, or the like; older checkpoints are untouched and nothing half-written stays.
    """
    target, aside = folder / f"ba{step}", folder / f".ba{step}.writing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".ba*"):
            shutil.rmtree(leftover)
        aside.mkdir()
        entries = {name: _write(aside / name, fill) for name, fill in files.items()}
        text = json.dumps({"files": entries}, indent=1)
        _write(aside / CHECKSUMS, content(text))
        sync_folder(aside)
        if target.exists():
            target.rename(folder / f".ba{step}.replaced")
        aside.rename(target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise write_error(target, error) from error
    shutil.rmtree(folder / f".ba{step}.replaced", ignore_errors=True)
    whole = [found for found in list_checkpoints(folder) if _cut(found.folder) is None]
    for old in whole[keep:]:
        shutil.rmtree(old.folder)
    return target


def _write(path: Path, fill: Fill) -> Entry:
    with path.open("wb") as file:
        hashed = HashedFile(file)
        fill(hashed)
        if hashed.error is not None:
            raise hashed.error
        file.flush()
        os.fsync(file.fileno())
    return hashed.entry


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """All that are there, the newest first; whether they can be used is not looked at."""
    found = [Checkpoint(int(match[1]), path) for path in folder.glob("ba*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def newest(folder: Path) -> Path | None:
    """The folder of the latest one, unchecked, for messages."""
    return next((checkpoint.folder for checkpoint in list_checkpoints(folder)), None)


def latest_valid(folder: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """The latest checkpoint whose checksums hold, or None where there is no checkpoint; and the later ones that are damaged.

    DamagedCheckpoint ones are renamed, so call it only where no worker writes.

    Raises:
        ConfigError: there are checkpoints, and all are damaged; to begin anew is for the user to decide.
    """
    damaged: list[DamagedCheckpoint] = []
    for found in list_checkpoints(folder):
        reason = find_damage(found.folder)
        if reason is None:
            return found, damaged
        damaged.append(DamagedCheckpoint(found.folder, folder / f"damaged-{found.folder.name}", reason))
        shutil.rmtree(damaged[-1].moved_to, ignore_errors=True)
        found.folder.rename(damaged[-1].moved_to)
    if damaged:
        reasons = "; ".join(f"{one.moved_to}: {one.reason}" for one in damaged)
        raise ConfigError(
            f"every checkpoint is damaged: {reasons}. Put a good one back as {damaged[0].folder}, or delete {folder.parent} "
            "to train anew"
        )
    return None, damaged


def find_damage(folder: Path) -> str | None:
    """Why the checkpoint in `folder` cannot be used, or None; reads all of it."""
    reason = _cut(folder)
    if reason is not None:
        return reason
    for name, entry in _checksums(folder).items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry["sha256"]:
            return f"{name} has another checksum than {CHECKSUMS} says"
    return None


def _cut(folder: Path) -> str | None:
    """Why the files cannot be whole, by their sizes alone."""
    try:
        entries = _checksums(folder)
        for name in (STATE, SPEC):
            if name not in entries:
                return f"{CHECKSUMS} does not name {name}"
        for name, entry in entries.items():
            size = (folder / name).stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes of {entry['bytes']}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUMS} cannot be read"
    return None


def _checksums(folder: Path) -> dict[str, Entry]:
    files = json.loads((folder / CHECKSUMS).read_bytes())["files"]
    return {name: Entry(bytes=int(entry["bytes"]), sha256=str(entry["sha256"])) for name, entry in files.items()}
