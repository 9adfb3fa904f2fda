"""Rows of caption tables in batches of bounded size: Parquet through pyarrow, CSV through DuckDB.

The batches have the columns `key`, `s0`, `s1` … (synthetic captions), `w0` … (web captions) and `score`, whatever their names in
the table. A text column holds one text or a list of texts.
"""

import csv
import glob
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from clips_pipeline.config import ConfigError, LaterField
from clips_pipeline.data.shards.records import CaptionerNames, Names, captioner_fields, field_names
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.retry import StorageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROWS_PER_BATCH = 4_096

_SCORE = "score"
_MAX_HEADER_BYTES = 1 << 20
# A longer row is left out as faulty. DuckDB holds 32 of them at a time, and does not count one that is longer than these.
_MAX_ROW_BYTES = 1 << 20
_MAX_FAULTY_ROWS = 1_000_000
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class TableColumns:
    """Names of columns of the tables; None if there is no such column. Text columns hold a text or a list of texts.

    Attributes:
        synthetic: the synthetic caption; a list of columns, each named after its captioner; or a mapping from captioners to
            columns.
        web: the web caption, or a list of columns, that replaces the one of the sample; null keeps that one.
        score: a number for the pair, for a filter.
        key: the column that rows are found by; None for the name of `on`.
    """

    synthetic: CaptionerNames = "re_caption"
    web: Names | None = None
    score: str | None = None
    key: Annotated[str | None, LaterField()] = None

    def __post_init__(self) -> None:
        names = self.synthetic_names + self.web_names
        if not self.synthetic_names or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"synthetic, web: {', '.join(names)} must name different columns, and a synthetic one")

    @property
    def synthetic_names(self) -> list[str]:
        """Columns of synthetic captions, in order."""
        return [name for _, name in captioner_fields(self.synthetic)]

    @property
    def web_names(self) -> list[str]:
        """Columns of web captions, in order."""
        return [] if self.web is None else field_names(self.web)

    def sources(self, on: str) -> dict[str, str]:
        """Return the columns of the table by their names in the batches.

        Args:
            on: what rows are found by.
        """
        found = {"key": self.key or on}
        found |= {f"s{number}": name for number, name in enumerate(self.synthetic_names)}
        found |= {f"w{number}": name for number, name in enumerate(self.web_names)}
        return found if self.score is None else found | {_SCORE: self.score}


class TableReader:
    """One table.

    Args:
        address: path or URL; the ending is `.csv` or `.tsv`, also with `.gz` or `.zst`, or else it is a Parquet file.
        storage: access to the file.
        sources: columns of the table by their names in the batches.
        max_caption_bytes: of a longer text only so much is read that its sample is found to be above this limit.
    """

    def __init__(self, address: str, storage: Storage, sources: dict[str, str], max_caption_bytes: int) -> None:
        self.address, self.faulty = address, 0
        self._storage, self._sources, self._longest = storage, sources, max_caption_bytes + 1
        name = address.lower()
        self._compression = compression_of(address)
        plain = name if self._compression == "none" else name.rpartition(".")[0]
        self._delimiter = _DELIMITERS.get(plain[-4:])

    def check(self) -> None:
        """Check that the table can be read and has all columns.

        Raises:
            ConfigError: it is neither Parquet nor CSV, lacks a column, or a column has the wrong type.
            StorageError: it cannot be reached.
        """
        if self._delimiter is not None:
            self._header()
            return
        with self._parquet() as parquet:
            self._check_types(parquet.schema_arrow)

    def batches(self, config: dict[str, Any]) -> "Iterator[pa.RecordBatch]":
        """Yield all rows in order; faulty rows of CSV are left out and counted in `faulty`.

        Args:
            config: DuckDB's configuration, for CSV.

        Raises:
            ConfigError: the table is damaged.
            StorageError: it cannot be read.
        """
        found = self._parquet_batches() if self._delimiter is None else self._csv_batches(config)
        return _rebatch(map(self._conform, found))

    def _conform(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        import pyarrow as pa

        columns = [_text_or_texts(column) for column in batch.columns]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    # Parquet

    @contextmanager
    def _parquet(self) -> "Iterator[Any]":
        # Imported here: the process that starts `kedro` imports this module, and pyarrow takes 0.1 s.
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self._storage.open(self.address) as file:
            try:
                # Without `pre_buffer`, only the current pages are in memory instead of a whole row group.
                yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            except StorageError:
                raise
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{self.address}: not a Parquet file, or a damaged one ({error}); write it again (a table of another "
                    "kind ends in .csv, .tsv, .csv.gz or .csv.zst)"
                ) from None

    def _check_types(self, schema: "pa.Schema") -> None:
        import pyarrow as pa

        for column, name in self._sources.items():
            self._require(name, schema.names)
            kind = schema.field(name).type
            if column == _SCORE:
                fits, wanted = pa.types.is_floating(kind) or pa.types.is_integer(kind), "numbers"
            elif column == "key":
                fits, wanted = is_text(kind), "text"
            else:
                fits, wanted = is_text(kind) or is_text_list(kind), "text or lists of texts"
            if not fits:
                raise ConfigError(f"{self.address}: column {name!r} holds {kind}; name a column that holds {wanted}")

    def _require(self, name: str, there: Sequence[str]) -> None:
        if name not in there:
            raise ConfigError(f"{self.address}: no column {name!r} (it has: {', '.join(there)}); name an existing one")

    def _parquet_batches(self) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        with self._parquet() as parquet:
            self._check_types(parquet.schema_arrow)
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=sorted(set(self._sources.values()))):
                batch.validate(full=True)  # texts that are not UTF-8
                columns = [_shortened(batch.column(name), self._longest) for name in self._sources.values()]
                yield pa.RecordBatch.from_arrays(columns, names=list(self._sources))

    # CSV

    def _header(self) -> list[str]:
        """Return the names of all columns."""
        import pyarrow as pa

        with self._storage.open(self.address) as file:
            try:
                content = _first_bytes(file, self._compression)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, StorageError):
                    raise
                raise ConfigError(f"{self.address}: cannot be unpacked ({error}); write it again") from None
        text = content.decode("utf-8-sig", "replace")
        try:
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter or ","), [])
        except csv.Error as error:
            raise ConfigError(
                f"{self.address}: its first line is no list of columns ({error}); write it again"
            ) from None
        for name in self._sources.values():
            self._require(name, names)
        return names

    def _csv_batches(self, config: dict[str, Any]) -> "Iterator[pa.RecordBatch]":
        import duckdb

        # Names may repeat or be empty; only those that are used must be right.
        header = self._header()
        numbered = {name: f"c{header.index(name)}" for name in self._sources.values()}
        selected = ", ".join(_select(column, numbered[name], self._longest) for column, name in self._sources.items())
        options = (
            "auto_detect = false, header = true, quote = '\"', escape = '\"', ignore_errors = true, store_rejects = true, "
            f"delim = '{self._delimiter}', compression = '{self._compression}', max_line_size = {_MAX_ROW_BYTES}, "
            f"rejects_limit = {_MAX_FAULTY_ROWS}, "
            f"columns = {{{', '.join(f'c{number}: VARCHAR' for number in range(len(header)))}}}"
        ).replace(": VARCHAR", ": 'VARCHAR'")
        with self._storage.local_copy(self.address) as path, connect(":memory:", config) as connection:
            query = f"SELECT {selected} FROM read_csv($path, {options})"  # noqa: S608 - names are numbers
            try:
                yield from connection.sql(query, params={"path": _literal_path(path)}).to_arrow_reader(ROWS_PER_BATCH)
                self.faulty = connection.execute(_COUNT_FAULTY).fetchall()[0][0]
            except duckdb.Error as error:
                raise _csv_error(self.address, error) from None
        if self.faulty >= _MAX_FAULTY_ROWS:
            raise ConfigError(f"{self.address}: more than {_MAX_FAULTY_ROWS:,} rows are not CSV; write it again")


def connect(database: Path | str, config: dict[str, Any]) -> "duckdb.DuckDBPyConnection":
    """Open a database of DuckDB that prints no progress.

    Args:
        database: its file, or `:memory:`.
        config: DuckDB's configuration.
    """
    import duckdb

    connection = duckdb.connect(database, config=config)
    connection.execute("SET enable_progress_bar = false")
    return connection


_COUNT_FAULTY = "SELECT count(DISTINCT line) FROM reject_errors"


def _csv_error(address: str, error: Exception) -> ConfigError:
    import duckdb

    first = str(error).partition("\n")[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return ConfigError(f"{address}: memory_mib is too small for its rows ({first}); raise it")
    return ConfigError(f"{address}: not a CSV file, or a damaged one ({first}); write it again")


def _select(column: str, source: str, longest: int) -> str:
    return f"TRY_CAST({source} AS DOUBLE) AS score" if column == _SCORE else f'left({source}, {longest}) AS "{column}"'


def _literal_path(path: Path) -> str:
    return glob.escape(str(path.absolute()))


def compression_of(address: str) -> str:
    """Return `gzip`, `zstd` or `none`, by the ending of a table's address."""
    return next((kind for ending, kind in _COMPRESSIONS.items() if address.lower().endswith(ending)), "none")


def _first_bytes(file: BinaryIO, compression: str) -> bytes:
    import pyarrow as pa

    if compression == "none":
        return file.read(_MAX_HEADER_BYTES)
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression) as stream:
        return bytes(stream.read(_MAX_HEADER_BYTES))


def is_text(kind: "pa.DataType") -> bool:
    """Return whether a column of this type holds texts."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_text_list(kind: "pa.DataType") -> bool:
    """Return whether a column of this type holds lists of texts."""
    import pyarrow as pa

    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and is_text(kind.value_type))


def _text_or_texts(column: "pa.Array") -> "pa.Array":
    """Return a column in the one type that all batches of a table have."""
    import pyarrow as pa

    if is_text(column.type):
        return column.cast(pa.string())
    return column.cast(pa.list_(pa.string()) if is_text_list(column.type) else pa.float64())


def _shortened(column: "pa.Array", longest: int) -> "pa.Array":
    """Return a column whose texts of more than `longest` bytes are cut to `longest` characters; lists stay as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_text(column.type):
        return column
    texts = column.cast(pa.large_string())
    most = pc.max(pc.binary_length(texts)).as_py()
    return column if most is None or most <= longest else pc.utf8_slice_codeunits(texts, 0, longest)


def _rebatch(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    """Yield batches of exactly `ROWS_PER_BATCH` rows; only the last may have fewer."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in chain(batches, [None]):
        if batch is not None:
            waiting.append(batch)
            rows += batch.num_rows
            if rows < ROWS_PER_BATCH:
                continue
        if not rows:
            continue
        table = pa.Table.from_batches(waiting).combine_chunks()
        full = table.num_rows if batch is None else table.num_rows // ROWS_PER_BATCH * ROWS_PER_BATCH
        for at in range(0, full, ROWS_PER_BATCH):
            yield table.slice(at, min(ROWS_PER_BATCH, full - at)).to_batches()[0]
        waiting = table.slice(full).to_batches()
        rows -= full
