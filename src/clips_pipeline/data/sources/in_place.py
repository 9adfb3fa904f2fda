"""Existing tar files: read in place, or copied into new shards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import parse_sample, prefix_key
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile, unreadable_error
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.io.redact import redact


@contextmanager
def open_shard(address: str, storage: Storage, limits: SampleLimits = DEFAULT_LIMITS) -> Iterator[TarFile]:
    """Open the tar file at an address; a remote one is copied while it is read.

    Args:
        address: path or URL.
        storage: access to the shard.
        limits: limits on a sample.

    Raises:
        StorageError: the file cannot be read, and the storage has `unreachable: stop`.
        BadSampleError: the file cannot be read, and the storage has `unreachable: skip`; or it is not a tar.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(storage.local_copy(address))
        except StorageError as error:
            if not storage.should_skip(error):
                raise
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, redact(address), str(error))) from None
        try:
            tar = TarFile(file, limits)
        except Exception as error:
            skip = make_skip(error, redact(address))
            if skip.reason == records.UNREADABLE_SHARD:
                raise
            raise unreadable_error(skip.key, f"{skip.reason}: {skip.detail}") from error
        yield stack.enter_context(tar)


def read_shard_records(
    address: str,
    storage: Storage,
    read: Callable[[TarFile, int], Record | Skip | None],
    limits: SampleLimits = DEFAULT_LIMITS,
) -> Iterator[Record | Skip]:
    """Yield the samples of a shard in order, and a `Skip` if the shard cannot be read to its end.

    Args:
        address: path or URL.
        storage: access to the shard.
        read: function that returns the sample of a row, or None to ignore it; whatever it raises costs that sample.
        limits: limits on a sample.

    Raises:
        StorageError: the shard cannot be read, and the storage has `unreachable: stop`.
    """
    try:
        with open_shard(address, storage, limits) as tar:
            for row, key in enumerate(tar.keys):
                try:
                    item = read(tar, row)
                except Exception as error:
                    item = make_skip(error, key)
                if item is not None:
                    yield item
            if (damage := tar.find_damage()) is not None:
                yield Skip(records.TRUNCATED_SHARD, redact(address), damage)
    except BadSampleError as bad:
        yield bad.skip


@dataclass(frozen=True)
class TarTask:
    """A tar file to be read in place: the index refers to it, and nothing is written.

    Attributes:
        address: absolute path or URL.
        fields: names of the caption fields.
        storage: access to the file.
        limits: limits on a sample.
    """

    address: str
    fields: SampleFields
    storage: Storage
    limits: SampleLimits = DEFAULT_LIMITS

    def read(self, tar: TarFile, row: int) -> Record:
        """Return the sample of a row.

        Raises:
            BadSampleError: the sample cannot be used.
        """
        members = tar.read(row)
        if self.fields.keys_repeat:
            members = prefix_key(members, self.address)
        return parse_sample(members, self.fields, limits=self.limits)


@dataclass(frozen=True)
class CopyTask:
    """The samples of one tar file, to be written into new shards: a `sources.source.ShardTask`."""

    tar: TarTask

    def records(self) -> Iterator[Record | Skip]:
        """Yield the samples in order; raises like `shard_records`."""
        return read_shard_records(self.tar.address, self.tar.storage, self.tar.read, self.tar.limits)
