"""Caption tables of any size, searched by key in bounded memory: one SQLite file, written once.

Rows are in the order of the Parquet tables. The index over the keys is created afterwards by SQLite's external sort,
which respects the memory limit and spills to a temporary file (in `TMPDIR`, else `/var/tmp`).
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.retry import StorageError
from clips_pipeline.io.atomic import replace_folder

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TABLE_FILE = "captions.sqlite"

_ROWS_AT_A_TIME = 8_192


@dataclass(frozen=True)
class TableColumns:
    """Names of columns of the tables; None if there is no such column.

    Attributes:
        synthetic: the synthetic caption.
        web: a web caption that replaces the one in the shard.
        score: a number for the pair, for a filter.
    """

    synthetic: str = "re_caption"
    web: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class TableCounts:
    """Number of rows of the tables.

    Attributes:
        rows: rows with a caption and a new key.
        repeated: rows whose key occurs in an earlier row; the first row is used.
        empty: rows without a key or without a caption.
    """

    rows: int
    repeated: int
    empty: int


class TableRow(NamedTuple):
    """A row. `number` counts the rows with a key and a caption, from 0."""

    number: int
    synthetic: str
    web: str | None
    score: float | None


def build_table(
    tables: Sequence[str],
    storage: Storage,
    folder: Path,
    *,
    key: str,
    columns: TableColumns,
    memory_mib: int,
    max_caption_bytes: int = DEFAULT_LIMITS.max_caption_bytes,
) -> "CaptionTable":
    """Read the Parquet files once and write the table into `folder`, which is replaced.

    Args:
        tables: addresses of the files.
        storage: access to the files.
        folder: folder of the table.
        key: name of the column that rows are found by.
        columns: names of the other columns.
        memory_mib: memory for SQLite in MiB; the Parquet reader needs a few dozen MiB more.
        max_caption_bytes: of a longer text only so much is stored that its sample is found to be above this limit.

    Raises:
        ConfigError: a file is not Parquet or lacks a column, or a column has the wrong type.
        StorageError: a file cannot be read.
    """
    total = sum(_row_count(table, storage, key, columns) for table in tables)
    with (
        replace_folder(folder) as temporary,
        closing(sqlite3.connect(temporary / TABLE_FILE, isolation_level=None)) as connection,
    ):
        # No journal: an incomplete file is deleted. Half of the memory is for the pages, half for the sort.
        connection.executescript(f"""
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -{memory_mib * 512};
            CREATE TABLE captions (row INTEGER PRIMARY KEY, key TEXT, synthetic TEXT, web TEXT, score REAL);
            CREATE TABLE counts (rows INTEGER, repeated INTEGER, empty INTEGER);
        """)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO captions (key, synthetic, web, score) VALUES (?, ?, ?, ?)",
            (
                row
                for row in _read_rows(tables, storage, key, columns, max_caption_bytes)
                if row[0] and row[1] and row[1].strip()
            ),
        )
        connection.execute("COMMIT")
        connection.execute("CREATE INDEX by_key ON captions (key)")
        (written,) = connection.execute("SELECT count(*) FROM captions").fetchone()
        (kept,) = connection.execute("SELECT count(*) FROM (SELECT DISTINCT key FROM captions)").fetchone()
        counts = TableCounts(kept, written - kept, total - written)
        connection.execute("INSERT INTO counts VALUES (?, ?, ?)", (counts.rows, counts.repeated, counts.empty))
    log.info("%s: %d rows, %d repeated keys, %d empty", folder, counts.rows, counts.repeated, counts.empty)
    return CaptionTable(folder)


class CaptionTable:
    """A table written by `build_table`. Can be pickled; every process opens the file for itself.

    Args:
        folder: folder of the table.

    Raises:
        ConfigError: the folder has no complete table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.counts = TableCounts(*self._file.execute("SELECT rows, repeated, empty FROM counts").fetchone())
        except (sqlite3.Error, TypeError) as error:
            raise ConfigError(
                f"{folder}: holds no complete table ({error}); delete the folder and prepare again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "counts": self.counts}

    def find(self, key: str) -> TableRow | None:
        """Return the first row with a key, or None."""
        wanted = "SELECT row - 1, synthetic, web, score FROM captions WHERE key = ? ORDER BY row LIMIT 1"
        try:
            row = self._file.execute(wanted, (key,)).fetchone()
        except UnicodeEncodeError:
            return None  # a name in a tar that is not UTF-8; no table has such a key
        return None if row is None else TableRow(*row)

    @cached_property
    def _file(self) -> sqlite3.Connection:
        # The file is never written again, so it needs no locks, which network file systems may lack.
        address = f"{(self.folder / TABLE_FILE).absolute().as_uri()}?mode=ro&immutable=1"
        return sqlite3.connect(address, uri=True, check_same_thread=False)


def _row_count(table: str, storage: Storage, key: str, columns: TableColumns) -> int:
    """Return the number of rows of a table, after checking that it has the requested columns."""
    # Imported here: the process that starts `kedro` imports this module, and pyarrow takes 0.1 s.
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open(table) as file, _parquet_errors(table):
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        for name in (key, columns.synthetic, columns.web, columns.score):
            if name is None:
                continue
            if name not in schema.names:
                raise ConfigError(
                    f"{table}: no column {name!r} (it has: {', '.join(schema.names)}); name an existing one"
                )
            kind = schema.field(name).type
            fits = pa.types.is_floating(kind) or pa.types.is_integer(kind)
            if name != columns.score:
                fits = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            if not fits:
                raise ConfigError(
                    f"{table}: column {name!r} holds {kind}; "
                    f"name a column that holds {'numbers' if name == columns.score else 'text'}"
                )
        return int(parquet.metadata.num_rows)


def _read_rows(
    tables: Sequence[str], storage: Storage, key: str, columns: TableColumns, max_caption_bytes: int
) -> Iterator[tuple[str | None, str | None, str | None, float | None]]:
    import pyarrow.parquet as pq

    names = [name for name in (key, columns.synthetic, columns.web, columns.score) if name is not None]
    for table in tables:
        with storage.open(table) as file, _parquet_errors(table):
            # Without `pre_buffer`, only the current pages are in memory instead of a whole row group.
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=names):
                listed = {name: _shortened(batch.column(name), max_caption_bytes).to_pylist() for name in names}
                nothing = [None] * batch.num_rows
                yield from zip(
                    listed[key],
                    listed[columns.synthetic],
                    listed.get(columns.web or "", nothing),
                    listed.get(columns.score or "", nothing),
                    strict=True,
                )


def _shortened(column: "pa.Array", most: int) -> "pa.Array":
    """Return a column whose texts of more than `most` bytes are cut to `most` + 1 characters; SQLite holds no longer ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return column
    longest = pc.max(pc.binary_length(column.cast(pa.large_string()))).as_py()
    if longest is None or longest <= most:
        return column
    return pc.utf8_slice_codeunits(column.cast(pa.large_string()), 0, most + 1)


@contextmanager
def _parquet_errors(table: str) -> Iterator[None]:
    """Raise a ConfigError for a damaged table; pyarrow finds damaged pages only while it reads them."""
    import pyarrow as pa

    try:
        yield
    except StorageError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{table}: not a Parquet file, or a damaged one ({error}); write it again") from None
