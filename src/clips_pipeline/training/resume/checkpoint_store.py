"""Checkpoint files: one folder per checkpoint, complete or absent, with checksums. Loads neither torch nor Composer.

checkpoints/ba120/state.pt         what Composer needs to resume after step 120
checkpoints/ba120/run_spec.json    run spec of the training that wrote it
checkpoints/ba120/code.txt         digest of the package source that wrote it
checkpoints/ba120/checksums.json   sizes and SHA-256 sums of the files beside it
checkpoints/.ba120.writing/        a checkpoint while it is written, or what a killed process left of it
checkpoints/damaged-ba120/         a checkpoint that was refused, kept for inspection
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
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.disk_errors import write_error

STATE = "state.pt"
SPEC = "run_spec.json"
CODE = "code.txt"
CHECKSUMS = "checksums.json"

_NAME = re.compile(r"ba(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: optimizer steps done.
        folder: folder of its files.
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
        folder: where it was.
        moved_to: where it is now, so that a new checkpoint of this step can be written.
        reason: what is wrong with it.
    """

    folder: Path
    moved_to: Path
    reason: str


class FileEntry(TypedDict):
    """One file in `checksums.json`."""

    bytes: int
    sha256: str


class HashedFile:
    """File object for `torch.save`: counts and hashes the bytes, and keeps the first write error for the caller.

    `write` does not raise: torch's writer is C++ and ends the whole process when closing fails.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._sum = file, hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash; write nothing after an error."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        self._sum.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed and synced once, at the end."""

    @property
    def entry(self) -> FileEntry:
        """The file's entry in `checksums.json`."""
        return FileEntry(bytes=self.bytes, sha256=self._sum.hexdigest())


ContentWriter = Callable[[HashedFile], None]


def text_writer(text: str) -> ContentWriter:
    """Return a function that writes `text` to a file."""

    def write(file: HashedFile) -> None:
        file.write(text.encode())

    return write


def save(folder: Path, step: int, files: dict[str, ContentWriter], keep: int) -> Path:
    """Write the checkpoint of `step`, then delete the oldest ones beyond `keep`.

    The checkpoint is written to a temporary folder, synced and renamed, so it is complete under its name. Older checkpoints are
    deleted only after that.

    Args:
        folder: folder of all checkpoints.
        step: optimizer steps done.
        files: by name, the function that writes the content.
        keep: number of checkpoints to keep; truncated ones do not count.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CannotWriteError: the disk is full or failed; older checkpoints are unchanged and no partial one stays.
    """
    target, temporary = folder / f"ba{step}", folder / f".ba{step}.writing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".ba*"):
            shutil.rmtree(leftover)
        temporary.mkdir()
        entries = {name: _write(temporary / name, write) for name, write in files.items()}
        text = json.dumps({"files": entries}, indent=1)
        _write(temporary / CHECKSUMS, text_writer(text))
        sync_folder(temporary)
        if target.exists():
            target.rename(folder / f".ba{step}.replaced")
        temporary.rename(target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise write_error(target, error) from error
    shutil.rmtree(folder / f".ba{step}.replaced", ignore_errors=True)
    complete = [checkpoint for checkpoint in list_checkpoints(folder) if _find_truncation(checkpoint.folder) is None]
    for old in complete[keep:]:
        shutil.rmtree(old.folder)
    return target


def _write(path: Path, write: ContentWriter) -> FileEntry:
    with path.open("wb") as file:
        hashed = HashedFile(file)
        write(hashed)
        if hashed.error is not None:
            raise hashed.error
        file.flush()
        os.fsync(file.fileno())
    return hashed.entry


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Return all checkpoints, the latest first, without checking them."""
    checkpoints = [
        Checkpoint(int(match[1]), path) for path in folder.glob("ba*") if (match := _NAME.fullmatch(path.name))
    ]
    return sorted(checkpoints, key=lambda checkpoint: -checkpoint.step)


def latest_folder(folder: Path) -> Path | None:
    """Return the folder of the latest checkpoint, unchecked, for messages."""
    return next((checkpoint.folder for checkpoint in list_checkpoints(folder)), None)


def latest_valid(folder: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """Return the latest checkpoint whose checksums hold (None without checkpoints), and the later ones that are damaged.

    Damaged ones are renamed, so call it only while no rank writes.

    Raises:
        ConfigError: all checkpoints are damaged. The user has to decide whether to train from the beginning.
    """
    damaged: list[DamagedCheckpoint] = []
    for checkpoint in list_checkpoints(folder):
        reason = find_damage(checkpoint.folder)
        if reason is None:
            return checkpoint, damaged
        damaged.append(DamagedCheckpoint(checkpoint.folder, folder / f"damaged-{checkpoint.folder.name}", reason))
        shutil.rmtree(damaged[-1].moved_to, ignore_errors=True)
        checkpoint.folder.rename(damaged[-1].moved_to)
    if damaged:
        reasons = "; ".join(f"{one.moved_to}: {one.reason}" for one in damaged)
        raise ConfigError(
            f"every checkpoint is damaged: {reasons}. Restore a valid one as {damaged[0].folder}, or delete {folder.parent} "
            "to train from the beginning"
        )
    return None, damaged


def find_damage(folder: Path) -> str | None:
    """Return why the checkpoint in `folder` cannot be used, or None. Reads all of it."""
    reason = _find_truncation(folder)
    if reason is not None:
        return reason
    for name, entry in _read_checksums(folder).items():
        if file_sha256(folder / name) != entry["sha256"]:
            return f"{name} has another checksum than {CHECKSUMS} says"
    return None


def _find_truncation(folder: Path) -> str | None:
    """Return why the files cannot be complete, by their sizes alone, or None."""
    try:
        entries = _read_checksums(folder)
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


def _read_checksums(folder: Path) -> dict[str, FileEntry]:
    files = json.loads((folder / CHECKSUMS).read_bytes())["files"]
    return {name: FileEntry(bytes=int(entry["bytes"]), sha256=str(entry["sha256"])) for name, entry in files.items()}
