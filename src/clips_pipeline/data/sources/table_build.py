"""Reads caption tables once and makes them searchable by key, in bounded memory: the work is DuckDB's.

The rows of each table are copied to a file of its own, and DuckDB sorts their hashes (32 bytes a row), on disk if they do not fit
into its memory. A table that is copied is not read again after a kill.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.sources.caption_table import (
    COUNTS_FILE,
    HASHES_FILE,
    PLACES_FILE,
    CaptionTable,
    TableCounts,
    rows_file,
)
from clips_pipeline.data.sources.table_rows import TableColumns, TableReader, connect
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.io.atomic import write_text

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

log = logging.getLogger(__name__)

_MAX_THREADS = 4
_MAX_NAMED_CONFLICTS = 3
_SORTED_ROWS_PER_BATCH = 65_536


def build_table(
    tables: Sequence[str],
    storage: Storage,
    folder: Path,
    *,
    key: str,
    columns: TableColumns,
    memory_mib: int,
    max_conflicts: int | None = None,
    max_caption_bytes: int = DEFAULT_LIMITS.max_caption_bytes,
) -> CaptionTable:
    """Read the tables once and write the result into `folder`; unfinished work is kept in `FOLDER.partial`.

    Args:
        tables: addresses of the files.
        storage: access to the files.
        folder: folder of the result.
        key: name of the column that rows are found by, unless `columns.key` names another one.
        columns: names of the other columns.
        memory_mib: memory for DuckDB in MiB; reading and writing need some dozen MiB more.
        max_conflicts: number of keys with different captions above which to stop; None for any number.
        max_caption_bytes: of a longer text only so much is stored that its sample is found to be above this limit.

    Raises:
        ConfigError: a file is neither Parquet nor CSV or lacks a column, a column has the wrong type, no row can be used, or there
            are too many conflicts.
        StorageError: a file cannot be read.
    """
    import duckdb

    sources = columns.sources(key)
    readers = [TableReader(table, storage, sources, max_caption_bytes) for table in tables]
    for reader in readers:
        reader.check()
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    config = duckdb_configuration(memory_mib, partial)
    database = partial / "hashes.duckdb"
    try:
        with connect(database, config) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS hashes (high UBIGINT, low UBIGINT, place BIGINT, content UBIGINT)"
            )
            counts = _copy_rows(readers, partial, connection, config)
            found = _sort(connection, partial)
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(
            f"source.recaption.memory_mib: {memory_mib} MiB are too few for these tables ({_first_line(error)}); raise it"
        ) from None
    except duckdb.Error as error:
        raise ConfigError(
            f"{partial}: DuckDB cannot make the table ({_first_line(error)}); make room on the disk, end another run that "
            "prepares the same data, or delete the folder"
        ) from None
    rows = sum(count["rows"] for count in counts)
    empty, faulty = rows - found.kept - found.repeated, sum(count["faulty"] for count in counts)
    if not found.kept:
        raise ConfigError(
            f"{tables[0]}: none of {rows} rows has a text under {sources['key']!r} and a caption ({faulty} are not CSV); name "
            "other columns (source.recaption.columns)"
        )
    files = tuple(count["rows"] for count in counts)
    total = TableCounts(found.kept, found.repeated, empty, found.conflicts, faulty, files)
    write_text(partial / COUNTS_FILE, json.dumps(asdict(total)))
    named = _named_conflicts(CaptionTable(partial), tables, found.examples)
    check_conflicts(total, max_conflicts, f": {named}")
    if total.conflicts:
        log.warning("%d keys have rows with different captions, the first is used: %s", total.conflicts, named)
    partial.rename(folder)
    # Not before: tables that are copied are not hashed again, so that after a kill no row would be found.
    (folder / database.name).unlink()
    shutil.rmtree(folder / "spilled", ignore_errors=True)
    log.info(
        "%s: %d rows, %d repeated keys, %d empty, %d faulty", folder, total.rows, total.repeated, total.empty, faulty
    )
    return CaptionTable(folder)


def check_conflicts(counts: TableCounts, max_conflicts: int | None, named: str = "") -> None:
    """Refuse tables with more conflicts than allowed.

    Args:
        counts: number of rows of the tables.
        max_conflicts: as in `build_table`.
        named: some of the conflicts, for the message.

    Raises:
        ConfigError: there are more.
    """
    if max_conflicts is not None and counts.conflicts > max_conflicts:
        raise ConfigError(
            f"source.recaption.tables: {counts.conflicts} keys have rows with different captions, max_conflicts allows "
            f"{max_conflicts}{named}; name one table for them, or raise max_conflicts to use the first row"
        )


def duckdb_configuration(memory_mib: int, folder: Path) -> dict[str, Any]:
    """Return DuckDB's configuration.

    Args:
        memory_mib: memory in MiB.
        folder: folder for what does not fit into it.
    """
    from joblib import cpu_count  # every start of Kedro imports this module

    return {
        "memory_limit": f"{memory_mib}MiB",
        "temp_directory": str(folder / "spilled"),
        "threads": min(_MAX_THREADS, cpu_count()),
        # Everything it needs is built in; nothing is fetched.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }


def _copy_rows(
    readers: Sequence[TableReader], folder: Path, connection: "duckdb.DuckDBPyConnection", config: dict[str, Any]
) -> list[dict[str, int]]:
    """Copy the rows of all tables and add their hashes; return the numbers of rows and of faulty rows of each table."""
    counts: list[dict[str, int]] = []
    for number, reader in enumerate(readers):
        done = folder / f"rows-{number:05d}.json"
        if not done.is_file():
            begin = sum(count["rows"] for count in counts)
            rows = _write_rows(reader, rows_file(folder, number), config)
            # Left by a kill between the two.
            connection.execute("DELETE FROM hashes WHERE place >= $begin", {"begin": begin})
            if rows:
                _add_hashes(rows_file(folder, number), begin, connection)
            connection.execute("CHECKPOINT")
            write_text(done, json.dumps({"rows": rows, "faulty": reader.faulty}), sync=True)
            if reader.faulty:
                log.warning("%s: %d rows are not CSV, left out", reader.address, reader.faulty)
        counts.append(json.loads(done.read_text()))
    return counts


def _write_rows(reader: TableReader, file: Path, config: dict[str, Any]) -> int:
    import pyarrow as pa

    rows = 0
    with pa.OSFile(str(file), "wb") as out:
        writer = None
        for batch in reader.batches(config):
            writer = writer or pa.ipc.new_file(out, batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer is not None:
            writer.close()
    return rows


def _add_hashes(file: Path, begin: int, connection: "duckdb.DuckDBPyConnection") -> None:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        schema = reader.schema.append(pa.field("place", pa.int64()))

        def numbered() -> "Iterator[pa.RecordBatch]":
            place = begin
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                places = pa.array(np.arange(place, place + batch.num_rows))
                place += batch.num_rows
                yield pa.RecordBatch.from_arrays([*batch.columns, places], schema=schema)

        texts = [field.name for field in reader.schema if field.name not in ("key", "score")]
        present = [_present(name, reader.schema.field(name).type) for name in texts if name.startswith("s")]
        query = f"""
            INSERT INTO hashes SELECT md5_number_upper(key), md5_number_lower(key), place, hash({", ".join(texts)})
            FROM batches WHERE key <> '' AND ({" OR ".join(present)})
        """  # noqa: S608 - names of columns are ours
        connection.register("batches", pa.RecordBatchReader.from_batches(schema, numbered()))
        try:
            connection.execute(query)
        finally:
            connection.unregister("batches")


def _present(name: str, kind: "pa.DataType") -> str:
    """Return the condition that a column holds a text that is not blank."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return f"len(list_filter({name}, lambda text: regexp_matches(text, '\\S'))) > 0"
    return f"regexp_matches({name}, '\\S')"


class _Sorted:
    """What sorting has found so far; keys continue from one batch to the next."""

    def __init__(self) -> None:
        self.kept = self.repeated = self.conflicts = 0
        self.examples: list[tuple[int, int]] = []
        self._last: tuple[int, int] | None = None
        self._first_content, self._first_place, self._counted = 0, 0, False

    def add(
        self, high: NDArray[Any], low: NDArray[Any], place: NDArray[Any], content: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Return which of these rows are the first of their key."""
        new = np.ones(len(high), np.bool_)
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        new[0] = self._last != (int(high[0]), int(low[0]))
        begin = np.maximum.accumulate(np.where(new, np.arange(len(new)), -1))
        first = np.where(begin < 0, np.uint64(self._first_content), content[begin])
        different = np.flatnonzero(content != first)
        keys, rows = np.unique(begin[different], return_index=True)
        for key, row in zip(keys.tolist(), different[rows].tolist(), strict=True):
            if key < 0 and self._counted:
                continue
            self.conflicts += 1
            if len(self.examples) < _MAX_NAMED_CONFLICTS:
                self.examples.append((self._first_place if key < 0 else int(place[key]), int(place[row])))
        self.kept += int(new.sum())
        self.repeated += int((~new).sum())
        end = int(begin[-1])
        self._counted = end in keys or (end < 0 and self._counted)
        if end >= 0:
            self._first_content, self._first_place = int(content[end]), int(place[end])
        self._last = int(high[-1]), int(low[-1])
        return new


def _sort(connection: "duckdb.DuckDBPyConnection", folder: Path) -> _Sorted:
    found = _Sorted()
    query = "SELECT high, low, place, content FROM hashes ORDER BY high, low, place"
    with (folder / HASHES_FILE).open("wb") as hashes, (folder / PLACES_FILE).open("wb") as places:
        for batch in connection.sql(query).to_arrow_reader(_SORTED_ROWS_PER_BATCH):
            if batch.num_rows:
                high, low, place, content = (column.to_numpy() for column in batch.columns)
                new = found.add(high, low, place, content)
                _append(hashes, high[new])
                _append(places, place[new])
    return found


def _append(file: BinaryIO, values: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(values).tobytes())


def _named_conflicts(table: CaptionTable, tables: Sequence[str], examples: Sequence[tuple[int, int]]) -> str:
    def named(place: int) -> str:
        number, row = table.locate(place)
        return f"row {row + 1} of {tables[number]}"

    return "; ".join(f"{table.read(a)['key'][:200]!r} in {named(a)} and {named(b)}" for a, b in examples)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
