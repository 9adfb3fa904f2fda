"""Samples to read: prepared shards, any tar shards in webdataset's layout, or folders of images."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clips_pipeline.batch_inference.config import Splits
from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.index import INDEX_FILE, load_index
from clips_pipeline.data.shards.reader import ShardSet, parse_sample
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.tar_file import BadSampleError, Members
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.folder import image_key
from clips_pipeline.data.sources.in_place import open_shard
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote
from clips_pipeline.io.redact import redact

IMAGES_PER_PART = 1_000
"""Images of a folder that are one part: what a killed process has to do again at most."""

_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True)
class Item:
    """One sample.

    Attributes:
        record: the sample; its captions may be empty.
        members: its files.
        source: its shard or image file, without secrets.
    """

    record: Record
    members: Members
    source: str


class InputTask(Protocol):
    """One shard, or some images of a folder. Must be picklable."""

    @property
    def name(self) -> str:
        """What is read, for messages."""
        ...

    @property
    def samples(self) -> int | None:
        """Number of samples; None if it is not known without reading the shard."""
        ...

    def items(self) -> Iterator[Item | Skip]:
        """Yield the samples in order."""
        ...


@dataclass(frozen=True)
class PreparedTask:
    """One shard of a folder that `prepare` wrote."""

    shards: ShardSet
    number: int

    @property
    def name(self) -> str:
        """Its address in the index."""
        return redact(self.shards.entries[self.number].path)

    @property
    def samples(self) -> int | None:
        """Its samples by the index."""
        return self.shards.samples[self.number]

    def items(self) -> Iterator[Item | Skip]:
        """See `InputTask`."""
        path = self.shards.entries[self.number].path
        source = redact(path) if is_remote(path) else str((self.shards.folder / path).absolute())
        for row in range(self.shards.samples[self.number]):
            try:
                members = self.shards.members(self.number, row)
                yield Item(parse_sample(members, self.shards.fields, limits=self.shards.limits), members, source)
            except Exception as error:
                yield make_skip(error, f"{self.name} sample {row}")
        self.shards.close()


@dataclass(frozen=True)
class TarInput:
    """One tar file in webdataset's layout, such as those of img2dataset."""

    address: str
    fields: SampleFields
    storage: Storage
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def name(self) -> str:
        """Its address."""
        return redact(self.address)

    @property
    def samples(self) -> int | None:
        """Unknown."""
        return None

    def items(self) -> Iterator[Item | Skip]:
        """See `InputTask`."""
        try:
            with open_shard(self.address, self.storage, self.limits) as tar:
                for row, key in enumerate(tar.keys):
                    try:
                        members = tar.read(row)
                        yield Item(parse_sample(members, self.fields, limits=self.limits), members, self.name)
                    except Exception as error:
                        yield make_skip(error, key)
                if (damage := tar.find_damage()) is not None:
                    yield Skip(records.TRUNCATED_SHARD, self.name, damage)
        except BadSampleError as bad:
            yield bad.skip


@dataclass(frozen=True)
class ImagesTask:
    """Some images of a folder, by their paths in it. Their keys are the paths without the extension."""

    folder: Path
    names: tuple[str, ...]
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def name(self) -> str:
        """Folder and first image."""
        return f"{self.folder} from {self.names[0]}"

    @property
    def samples(self) -> int | None:
        """Number of image files."""
        return len(self.names)

    def items(self) -> Iterator[Item | Skip]:
        """See `InputTask`."""
        for name in self.names:
            file = self.folder / name
            try:
                image = read_image(file, self.limits)
            except TooLargeImageError as error:
                yield Skip(error.reason, name, str(error))
                continue
            except OSError as error:
                yield Skip(records.MISSING_IMAGE, name, f"{file}: {error}")
                continue
            key, extension = image_key(name), _SUFFIXES[file.suffix.lower()]
            record = Record(key, image, extension, (), (), limits=self.limits)
            yield Item(record, Members(key, extension, image, None, None), str(file))


@dataclass(frozen=True)
class Inputs:
    """All that is read.

    Attributes:
        tasks: shards and parts of folders, in order.
        fingerprint: digest of what they hold, by the index, or by sizes and times.
    """

    tasks: Sequence[InputTask]
    fingerprint: str


def prepared_inputs(shards: Path, split: Splits, remote: ShardCache | None) -> Inputs:
    """Return the shards of a split, or of all splits, that `prepare` wrote.

    Raises:
        ConfigError: there is no such split, or a shard is missing or changed.
    """
    index = load_index(shards)
    tasks: list[InputTask] = []
    for one in index.splits if split == "all" else (split,):
        found = ShardSet(shards, one, max_open_files=1, remote=remote)
        tasks += [PreparedTask(found, number) for number in range(len(found.entries))]
    return Inputs(tasks, f"{index.version} {split}")


def other_inputs(
    addresses: str | tuple[str, ...],
    fields: SampleFields,
    storage: Storage,
    key: str,
    split: Splits,
    remote: ShardCache,
) -> Inputs:
    """Return the shards and images at some addresses.

    Args:
        addresses: tar files, with `{…}`, `::` and lists; folders of tar files, of images, or written by `prepare`.
        fields: names of the caption fields in tar files.
        storage: access to them.
        key: name of the parameter, for messages.
        split: split of a folder that `prepare` wrote.
        remote: cache for its remote shards.

    Raises:
        ConfigError: an address is missing, a folder holds nothing to read, or a shard is named twice.
        StorageError: a shard cannot be reached.
    """
    tasks: list[InputTask] = []
    facts: list[Any] = [fields.web, fields.synthetic]
    tars: list[str] = []
    for address in expand_addresses(addresses):
        local = Path(address.removeprefix("file://")).absolute()
        if is_remote(address):
            tars.append(address)
        elif (local / INDEX_FILE).is_file():
            prepared = prepared_inputs(local, split, remote)
            tasks += prepared.tasks
            facts.append(prepared.fingerprint)
        elif local.is_dir():
            inside = sorted(local.glob("*.tar"))
            tars += map(str, inside)
            if not inside:
                found, identities = _images_of(local, key)
                tasks += found
                facts.append(identities)
        elif local.is_file():
            tars.append(str(local))
        else:
            raise ConfigError(f"{key}: {address}: no such file or folder; give tar shards or a folder of images")
    repeated = next((one for one in tars if tars.count(one) > 1), None) if len(set(tars)) < len(tars) else None
    if repeated is not None:
        raise ConfigError(f"{key}: {repeated} is named twice; name it once")
    try:
        facts.append(list(zip(tars, storage.identities(tars), strict=True)))
    except StorageError as error:
        raise ConfigError(f"{key}: {error}") from None
    tasks += [TarInput(tar, fields, storage) for tar in tars]
    return Inputs(tasks, hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def _images_of(folder: Path, key: str) -> tuple[list[ImagesTask], list[Any]]:
    names, identities = [], []
    root = folder.resolve()
    for file in sorted(folder.rglob("*")):
        # Links that lead out of the folder must not make other files of this machine part of a table.
        if file.suffix.lower() in _SUFFIXES and file.is_file() and file.resolve().is_relative_to(root):
            name = file.relative_to(folder).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                continue  # a name that is not UTF-8 cannot be a key
            names.append(name)
            stat = file.stat()
            identities.append([name, stat.st_size, stat.st_mtime_ns])
    if not names:
        raise ConfigError(f"{key}: {folder}: holds no tar shard and no JPEG, PNG or WebP image; give another folder")
    tasks = [
        ImagesTask(folder, tuple(names[low : low + IMAGES_PER_PART])) for low in range(0, len(names), IMAGES_PER_PART)
    ]
    return tasks, identities
