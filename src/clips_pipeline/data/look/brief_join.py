"""The source `recaption` for a short look: caption tables are read from their start until the samples have their rows.

`prepare` reads all tables first, which takes minutes. Here nothing is written, and what is not among the first rows is not found.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.look.first_samples import FirstSamples
from clips_pipeline.data.sources.caption_table import COUNTS_FILE, CaptionTable, TableRow
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.sources.table_build import duckdb_configuration
from clips_pipeline.data.sources.table_rows import TableReader, compression_of
from clips_pipeline.data.storage.urls import is_remote

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_BYTES = 256 << 20
_MAX_SECONDS = 20.0
_MAX_TABLE_BYTES = 64 << 20
_UNPACKED_AT_ONCE = 16 << 10


@dataclass(frozen=True)
class FirstBytes(FirstSamples):
    """A storage that copies the first `max_bytes` of a remote table, whatever it holds."""

    ending: ClassVar[bytes] = b""

    @contextmanager
    def local_copy(self, address: str) -> Iterator[Path]:
        """As `FirstSamples.local_copy`; the beginning of a compressed table is made a complete compressed file."""
        with super().local_copy(address) as path:
            if is_remote(address):
                _complete(path, compression_of(address))
            yield path

    def end_of_samples(self, path: Path, *, at_least_one: bool) -> int:
        """Return the size of the copy, once it is large enough."""
        return path.stat().st_size if at_least_one else 0


class BriefTable(CaptionTable):
    """Caption tables whose rows are read on demand, within bounds of memory and time.

    Args:
        readers: the tables, in order.
        config: DuckDB's configuration.

    Attributes:
        read_rows: number of rows that were read.
        ended: whether all rows were read.
    """

    def __init__(self, readers: list[TableReader], config: dict[str, Any]) -> None:
        self.read_rows, self.ended = 0, False
        self._seconds, self._bytes = _MAX_SECONDS, 0
        self._rows: dict[str, tuple[int, int]] = {}
        self._kept: list[pa.RecordBatch] = []
        self._unread = _batches(readers, config)

    def find(self, key: str) -> TableRow | None:
        """Return the first row with a key among the rows that are read, or None."""
        began = time.monotonic()
        while key not in self._rows and not self.ended and self._bytes < _MAX_BYTES and self._seconds > 0:
            batch = next(self._unread, None)
            if batch is None:
                self.ended = True
            else:
                self._add(batch)
            now = time.monotonic()
            self._seconds, began = self._seconds - (now - began), now
        if key not in self._rows:
            return None
        number, row = self._rows[key]
        batch = self._kept[number]
        values = {name: column[row].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        return TableRow(self.read_rows, values)

    def _add(self, batch: "pa.RecordBatch") -> None:
        captions = [name for name in batch.schema.names if name[0] == "s" and name != "score"]
        columns = [batch.column(name).to_pylist() for name in captions]
        for row, key in enumerate(batch.column("key").to_pylist()):
            # As in `build_table`, a row without a key or a caption does not count.
            if key and any(_has_text(column[row]) for column in columns):
                self._rows.setdefault(key, (len(self._kept), row))
        self._kept.append(batch)
        self._bytes += batch.nbytes
        self.read_rows += batch.num_rows


class BriefRecaptionSource(RecaptionSource):
    """The join for a short look.

    Args:
        config: samples and tables.
        storage: access to both, which reads only the beginning of shards.
        work: an empty folder, deleted afterwards.
        tables: folder of the tables that `prepare` has made; one of these tables is used.
        limits: limits on a sample.
    """

    def __init__(
        self, config: RecaptionConfig, storage: FirstSamples, work: Path, tables: Path, limits: SampleLimits
    ) -> None:
        super().__init__(config, storage, work, limits)
        self._made = tables
        self.brief: BriefTable | None = None

    def _table(self) -> CaptionTable:
        made = self._made / self._table_fingerprint()[:16]
        if (made / COUNTS_FILE).is_file():
            return CaptionTable(made)
        if self.brief is None:
            storage = FirstBytes(**{**vars(self.storage), "max_bytes": _MAX_TABLE_BYTES})
            sources = self.config.columns.sources(self.config.on)
            readers = [TableReader(table, storage, sources, self.limits.max_caption_bytes) for table in self.tables]
            readers[0].check()
            self.brief = BriefTable(readers, duckdb_configuration(self.config.memory_mib, self.work))
        return self.brief


def _has_text(value: str | list[str | None] | None) -> bool:
    """Return whether a text, or one in a list, is not blank, as DuckDB's `\\S` finds it."""
    texts = value if isinstance(value, list) else [value]
    return any(text and text.strip(" \t\n\f\r") for text in texts)


def _batches(readers: list[TableReader], config: dict[str, Any]) -> "Iterator[pa.RecordBatch]":
    for reader in readers:
        read = False
        try:
            for batch in reader.batches(config):
                read = True
                yield batch
        except ConfigError:
            # The beginning of a table may end within a row.
            if not read:
                raise


def _complete(path: Path, compression: str) -> None:
    """Replace a compressed file that is cut off by a complete one with the same beginning: DuckDB reads no other."""
    import pyarrow as pa

    if compression == "none":
        return
    whole = path.with_name("whole")
    with pa.input_stream(str(path), compression) as found, pa.output_stream(str(whole), compression) as out:
        try:
            # A read that meets the end of the file gives nothing, so reads are short.
            while chunk := found.read(_UNPACKED_AT_ONCE):
                out.write(chunk)
            return
        except OSError:
            pass
    whole.replace(path)
