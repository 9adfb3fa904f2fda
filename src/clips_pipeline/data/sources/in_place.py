"""Tar files that are there already: read row by row as they are, or copied into new shards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import parse_sample
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.storage.files import Storage, StorageError, redact


@contextmanager
def open_shard(address: str, storage: Storage) -> Iterator[TarFile]:
    """The tar file at an address: itself, or a copy while it is read.

    Raises:
        StorageError: it cannot be had, and the storage says `unreachable: stop`.
        BadSampleError: likewise where it says `skip`, or it is no tar.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(storage.local_copy(address))
        except StorageError as error:
            if not storage.should_skip(error):
                raise
            raise BadSampleError(Skip(records.UNREADABLE_SHARD, redact(address), str(error))) from None
        yield stack.enter_context(TarFile(file))


def shard_records(
    address: str, storage: Storage, read: Callable[[TarFile, int], Record | Skip | None]
) -> Iterator[Record | Skip]:
    """The samples of a shard in order, and a `Skip` where it cannot be read to its end.

    Args:
        address: path or URL.
        storage: reaches it.
        read: the sample of a row, None for none; it may raise `BadSampleError`.

    Raises:
        StorageError: the shard cannot be had, and the storage says `unreachable: stop`.
    """
    try:
        with open_shard(address, storage) as tar:
            for row in range(len(tar.keys)):
                try:
                    item = read(tar, row)
                except BadSampleError as bad:
                    item = bad.skip
                if item is not None:
                    yield item
            if (damage := tar.find_damage()) is not None:
                yield Skip(records.TRUNCATED_SHARD, redact(address), damage)
    except BadSampleError as bad:
        yield bad.skip


@dataclass(frozen=True)
class TarTask:
    """A tar file that is read as it is: the index names it, and nothing is written.

    Attributes:
        address: absolute path or URL.
        fields: where the captions stand.
        storage: reaches the file.
    """

    address: str
    fields: SampleFields
    storage: Storage

    def read(self, tar: TarFile, row: int) -> Record:
        """The sample of a row.

        Raises:
            BadSampleError: it cannot be used.
        """
        return parse_sample(tar.read(row), self.fields)


@dataclass(frozen=True)
class CopyTask:
    """The samples of one tar file, to be written into new shards: `sources.source.ShardTask`."""

    tar: TarTask

    def records(self) -> Iterator[Record | Skip]:
        """The samples in order; raises as `shard_records`."""
        return shard_records(self.tar.address, self.tar.storage, self.tar.read)
