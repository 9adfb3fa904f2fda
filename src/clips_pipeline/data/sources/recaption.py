"""Shards with web captions, joined with Parquet tables of synthetic captions."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from clips_pipeline.config import ConfigError, PositiveInt, to_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import parse_json, parse_sample
from clips_pipeline.data.shards.records import Caption, Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.tar_file import TarFile
from clips_pipeline.data.sources.caption_table import TABLE_FILE, CaptionTable, TableColumns, build_table
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.sources.in_place import read_shard_records
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses
from clips_pipeline.io.atomic import replace_file


@dataclass(frozen=True)
class RecaptionConfig:
    """Shards, tables, and how to join them.

    Attributes:
        train: shards to train on, as in `img2dataset`.
        validation: shards to monitor training with, or `none`, as in `img2dataset`.
        test: shards for the final evaluation, or `none`, as in `img2dataset`.
        held_out: number of shards for each of the two without addresses.
        tables: Parquet files of synthetic captions, with `{…}`, `::`, lists and `*`.
        on: how a sample finds its row: `key` by its key, `sha256` by the field `sha256` of its JSON.
        columns: names of columns of the tables.
        web: name of the web caption field, like `web` of `SampleFields`.
        memory_mib: memory for the join, in MiB; larger tables take longer, not more memory.
    """

    train: str | tuple[str, ...]
    tables: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    held_out: PositiveInt = 1
    on: Literal["key", "sha256"] = "key"
    columns: TableColumns = field(default_factory=TableColumns)
    web: str = "txt"
    memory_mib: Annotated[int, Ge(16)] = 512


class RecaptionSource(Source):
    """The join as a source. The table is built when the tasks are first requested.

    Args:
        config: shards and tables.
        storage: access to both.
        work: folder of the table, which is kept for later runs.
        limits: limits on a sample.

    Raises:
        ConfigError: see `Img2datasetSource`; or a table cannot be reached.
    """

    def __init__(
        self, config: RecaptionConfig, storage: Storage, work: Path, limits: SampleLimits = DEFAULT_LIMITS
    ) -> None:
        self.config, self.storage, self.work, self.limits = config, storage, work, limits
        try:
            shards = Img2datasetConfig(config.train, config.validation, config.test, config.held_out, rewrite=True)
            self._shards = Img2datasetSource(shards, storage)
        except ConfigError as error:
            raise ConfigError(str(error).replace("source.img2dataset", "source.recaption")) from None
        try:
            self.tables = [
                table for pattern in expand_addresses(config.tables) for table in _matching_files(pattern, storage)
            ]
        except StorageError as error:
            raise ConfigError(f"source.recaption.tables: {error}") from None

    @property
    def splits(self) -> tuple[Split, ...]:
        """As of `img2dataset`."""
        return self._shards.splits

    def tasks(self, split: Split) -> Sequence[ShardTask]:
        """Return one task per shard.

        Raises:
            ConfigError: a table is not a Parquet file or lacks a column.
            StorageError: a table cannot be read.
        """
        return self._join_tasks(split, self._table())

    def fingerprint(self) -> str:
        """Return the SHA-256 over field and column names, and the identities of shards and tables.

        Raises:
            StorageError: a shard or a table cannot be reached.
        """
        facts = [self._shards.fingerprint(), self._table_fingerprint(), self.config.on, self.config.web]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def notes(self) -> dict[str, int]:
        """Return the number of used, unmatched, repeated and empty table rows; call it after all tasks are done.

        Raises:
            StorageError: the matches of a task were deleted, and its shard cannot be read again.
        """
        table = self._table()
        seen = np.zeros((table.counts.rows + table.counts.repeated + 7) // 8, np.uint8)
        for task in (task for split in self.splits for task in self._join_tasks(split, table)):
            numbers = task.matched_rows()
            np.bitwise_or.at(seen, numbers >> 3, (1 << (numbers & 7)).astype(np.uint8))
        matched = int(np.bitwise_count(seen).sum())
        counts = table.counts
        return {
            "table_rows_used": matched,
            "table_rows_without_sample": counts.rows - matched,
            "table_rows_repeated": counts.repeated,
            "table_rows_empty": counts.empty,
        }

    def _join_tasks(self, split: Split, table: CaptionTable) -> "list[JoinTask]":
        addresses = self._shards.addresses(split)
        config = self.config
        return [JoinTask(address, config.web, config.on, self.storage, table, self.limits) for address in addresses]

    def _table(self) -> CaptionTable:
        folder = self.work / self._table_fingerprint()[:16]
        if (folder / TABLE_FILE).is_file():
            return CaptionTable(folder)
        config = self.config
        return build_table(
            self.tables,
            self.storage,
            folder,
            key=config.on,
            columns=config.columns,
            memory_mib=config.memory_mib,
            max_caption_bytes=self.limits.max_caption_bytes,
        )

    def _table_fingerprint(self) -> str:
        identities = list(zip(self.tables, self.storage.identities(self.tables), strict=True))
        facts = [identities, self.config.on, to_mapping(self.config.columns), self.limits.max_caption_bytes]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class JoinTask:
    """The samples of one shard with captions from the table: a `sources.source.ShardTask`."""

    address: str
    web: str
    on: str
    storage: Storage
    table: CaptionTable
    limits: SampleLimits = DEFAULT_LIMITS

    def records(self) -> Iterator[Record | Skip]:
        """Yield the samples in order; a sample without a row in the table gives a `Skip`.

        Raises:
            StorageError: the shard cannot be read, and the storage has `unreachable: stop`.
        """
        matched: list[int] = []
        read = partial(self._join, matched=matched)
        try:
            yield from read_shard_records(self.address, self.storage, read, self.limits)
        except GeneratorExit:
            self.save_matched(matched)
            raise
        self.save_matched(matched)

    def save_matched(self, matched: Sequence[int]) -> None:
        """Write the numbers of the matched rows, from which `notes` counts the unmatched ones."""
        self._matched_file.parent.mkdir(exist_ok=True)
        with replace_file(self._matched_file) as temporary, temporary.open("wb") as opened:
            np.save(opened, np.array(matched, np.int64))

    def _join(self, tar: TarFile, row: int, matched: list[int]) -> Record | Skip:
        members = tar.read(row)
        key = members.key.rpartition("/")[2]
        if self.on != "key":
            value = parse_json(members, self.limits).get(self.on)
            if not isinstance(value, str):
                return Skip(records.BAD_RECORD, members.key, f"its JSON has no text under {self.on!r}")
            key = value
        found = self.table.find(key)
        if found is None:
            return Skip(records.NO_TABLE_ROW, members.key, f"no row of the tables has this {self.on}")
        matched.append(found.number)
        fields = SampleFields(web=self.web)
        synthetic, web = (Caption(found.synthetic),), None if found.web is None else (found.web,)
        record = parse_sample(members, fields, synthetic=synthetic, web=web, limits=self.limits)
        return replace(record, score=found.score)

    def matched_rows(self) -> NDArray[np.int64]:
        """Return the numbers of the table rows that match a sample; runs the task if they are not on disk.

        Raises:
            StorageError: see `records`.
        """
        if not self._matched_file.is_file():
            # The task was done in an earlier run, and the folder of tables, which may be deleted, was deleted since.
            for _ in self.records():
                pass
        return np.asarray(np.load(self._matched_file, allow_pickle=False), np.int64)

    @property
    def _matched_file(self) -> Path:
        return self.table.folder / "matched" / f"{hashlib.sha256(self.address.encode()).hexdigest()[:32]}.npy"


def _matching_files(pattern: str, storage: Storage) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    found = storage.list(pattern)
    if not found:
        raise ConfigError(f"source.recaption.tables: no file matches {pattern}; name Parquet files")
    return found
