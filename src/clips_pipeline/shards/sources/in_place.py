"""Tar files that are there already: read row by row as they are, or copied into new shards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.shards import records
from clips_pipeline.shards.reader import parse
from clips_pipeline.shards.records import Record, SampleFields, Skip
from clips_pipeline.shards.storage import Storage, StorageError, shown
from clips_pipeline.shards.tar import BadSampleError, TarFile


@dataclass(frozen=True)
class TarTask:
    """One tar file in place: `sources.source.InPlaceTask`.

    Attributes:
        address: absolute path or URL.
        fields: where the captions stand.
        storage: reaches the file.
    """

    address: str
    fields: SampleFields
    storage: Storage

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The file, or a copy while it is read.

        Raises:
            StorageError: it cannot be had, and the storage says `unreachable: stop`.
            BadSampleError: likewise where it says `skip`.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self.storage.local(self.address))
            except StorageError as error:
                if not self.storage.leaves_out(error):
                    raise
                raise BadSampleError(Skip(records.UNREADABLE_SHARD, shown(self.address), str(error))) from None
            yield file

    def rows(self, file: Path) -> Iterator[Record | Skip]:
        """One item per row; a file that is no tar raises `BadSampleError`, which has no rows."""
        with TarFile(file) as tar:
            for row in range(len(tar.keys)):
                try:
                    yield parse(tar.read(row), self.fields)
                except BadSampleError as bad:
                    yield bad.skip


@dataclass(frozen=True)
class CopyTask:
    """The samples of one tar file, to be written into new shards: `sources.source.ShardTask`."""

    tar: TarTask

    def records(self) -> Iterator[Record | Skip]:
        """The samples in order.

        Raises:
            StorageError: the file cannot be had, and the storage says `unreachable: stop`.
        """
        try:
            with self.tar.local() as file:
                yield from self.tar.rows(file)
                with TarFile(file) as tar:
                    damage = tar.damage()
                if damage is not None:
                    yield Skip(records.TRUNCATED_SHARD, shown(self.tar.address), damage)
        except BadSampleError as bad:
            yield bad.skip
