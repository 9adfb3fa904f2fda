"""Parquet files with the images in them, as data sets of Hugging Face have them; local or remote, read in small batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Lt

from clips_pipeline.config import ConfigError, PositiveInt, Seed, digest_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.records import SampleFields, captioner_names, captioner_order
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.parquet_columns import ParquetColumns, check_columns, find_empty_column
from clips_pipeline.data.sources.parquet_task import FaultyFileTask, NotParquetError, ParquetTask, open_parquet
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote

NO_SPLIT = "none"
_FOOTERS_AT_A_TIME = 16


@dataclass(frozen=True)
class ParquetConfig:
    """Location of the files, and the columns. Addresses are paths or URLs, with `{00000..00123}`, `one::two`, lists and `*`.

    Attributes:
        train: files to train on.
        columns: names of the columns.
        validation: files to monitor training with; None takes `validation_fraction` of the rows of `train`, `none` makes no such
            split.
        test: files for the final evaluation; None takes `test_fraction` of the rows of `train`, `none` makes no such split.
        validation_fraction: fraction of the rows, by a stable hash of their keys.
        test_fraction: fraction of the rows, by a stable hash of their keys.
        split_seed: seed of the hash.
        rows_per_task: number of rows that one process reads at a time, in whole row groups; each task starts a new shard.
    """

    train: str | tuple[str, ...]
    columns: ParquetColumns
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    validation_fraction: Annotated[float, Ge(0), Lt(0.5)] = 0.05
    test_fraction: Annotated[float, Ge(0), Lt(0.5)] = 0.05
    split_seed: Seed = 0
    rows_per_task: PositiveInt = 10_000


@dataclass(frozen=True)
class _Footer:
    """What the end of a file says: rows of its row groups, or why it cannot be read."""

    rows: tuple[int, ...] = ()
    fault: str | None = None


class ParquetSource(Source):
    """Rows with image bytes and captions.

    Args:
        config: files and columns.
        storage: access to the files.
        limits: limits on a sample.

    Raises:
        ConfigError: no file matches, a file is in two splits, or the first file of a split is no Parquet file, cannot be reached,
            or lacks a column.
    """

    def __init__(self, config: ParquetConfig, storage: Storage, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.config, self.storage, self.limits = config, storage, limits
        self.fields = SampleFields(needed=config.columns.needed)
        self._files: dict[Split, list[str]] = {"train": self._expand("train", config.train)}
        for split in ("validation", "test"):
            own = getattr(config, split)
            if own not in (None, NO_SPLIT):
                self._files[split] = self._expand(split, own)
        self._names = {split: _short_names(files) for split, files in self._files.items()}
        seen: dict[str, Split] = {}
        for split, files in self._files.items():
            for file in files:
                if file in seen:
                    raise ConfigError(f"source.parquet: {file} is in {seen[file]} and in {split}; name it once")
                seen[file] = split
            self._check_first(split, files[0])

    @property
    def splits(self) -> tuple[Split, ...]:
        """`train`, and `validation` and `test` unless they are `none` or have a fraction of 0."""
        others: list[Split] = ["validation", "test"]
        return ("train", *(split for split in others if split in self._files or self._fraction(split)))

    @property
    def captioners(self) -> tuple[str, ...]:
        """Those of the columns."""
        return captioner_names(self.config.columns.synthetic or "")

    def tasks(self, split: Split) -> Sequence[ShardTask]:
        """Return one task per `rows_per_task` rows of a file.

        Raises:
            ConfigError: a file lacks a column.
            StorageError: a file cannot be reached, and the storage has `unreachable: stop`.
        """
        files = self._files.get(split, self._files["train"])
        names = self._names.get(split, self._names["train"])
        low, high = self._part(split)
        tasks: list[ShardTask] = []
        for file in files:
            footer = self._footers[file]
            for groups, first in _divide(footer.rows, self.config.rows_per_task):
                tasks.append(
                    ParquetTask(
                        file,
                        groups,
                        first,
                        self.config.columns,
                        self.storage,
                        low,
                        high,
                        self.config.split_seed,
                        self.limits,
                        names[file],
                    )
                )
            # A damaged file is counted once.
            if footer.fault is not None and (split in self._files):
                tasks.append(FaultyFileTask(file, footer.fault))
        return tasks

    def fingerprint(self) -> str:
        """Return the SHA-256 over columns, splits, addresses, and sizes and times or entity tags; the files are not read.

        Raises:
            StorageError: a file cannot be reached.
        """
        facts = digest_mapping(self.config)
        for name in ("train", "validation", "test"):
            del facts[name]
        facts |= captioner_order(self.config.columns.synthetic)
        total = hashlib.sha256(json.dumps([facts, self.splits], sort_keys=True).encode())
        for split, files in self._files.items():
            for file, identity in zip(files, self.storage.identities(files), strict=True):
                total.update(f"{split} {file} {identity}\n".encode())
        return total.hexdigest()

    @cached_property
    def _footers(self) -> dict[str, _Footer]:
        files = [file for found in self._files.values() for file in found]
        with ThreadPoolExecutor(_FOOTERS_AT_A_TIME) as pool:
            return dict(zip(files, pool.map(self._footer, files), strict=True))

    def _footer(self, file: str) -> _Footer:
        try:
            return self._read_footer(file)
        except StorageError as error:
            if not self.storage.should_skip(error):
                raise
            return _Footer(fault=str(error))
        except NotParquetError as error:
            return _Footer(fault=str(error))

    def _read_footer(self, file: str) -> _Footer:
        with open_parquet(file, self.storage) as parquet:
            selectors = check_columns(self.config.columns, parquet.schema_arrow, file)
            metadata = parquet.metadata
            empty = find_empty_column(list(selectors.values()), metadata)
            if empty is not None:
                raise ConfigError(
                    f"{file}: column {empty!r} is empty in all {metadata.num_rows} rows; {self._remedy(empty)}"
                )
            return _Footer(tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)))

    def _remedy(self, empty: str) -> str:
        if empty != self.config.columns.image:
            return "name another one"
        return "name another one, or embed the images, of which only paths are there"

    def _check_first(self, split: Split, file: str) -> None:
        try:
            self._read_footer(file)
        except (StorageError, NotParquetError) as error:
            if isinstance(error, StorageError) and self.storage.should_skip(error):
                return
            remedy = "" if isinstance(error, StorageError) else "; name Parquet files, or write it again"
            raise ConfigError(f"source.parquet.{split}: {error}{remedy}") from None
        except ConfigError as error:
            raise ConfigError(f"source.parquet.columns: {error}") from None

    def _expand(self, split: Split, addresses: str | tuple[str, ...]) -> list[str]:
        found: list[str] = []
        for address in expand_addresses(addresses):
            if not is_remote(address):
                address = str(Path(address.removeprefix("file://")).absolute())
            try:
                matching = self.storage.list(address) if "*" in address else [address]
            except StorageError as error:
                raise ConfigError(f"source.parquet.{split}: {error}") from None
            if not matching:
                raise ConfigError(f"source.parquet.{split}: no file matches {address}; name Parquet files")
            found += matching
        return found

    def _fraction(self, split: Split) -> float:
        """Return the fraction of the rows of `train` that belong to another split."""
        if split in self._files or getattr(self.config, split) == NO_SPLIT:
            return 0.0
        return float(getattr(self.config, f"{split}_fraction"))

    def _part(self, split: Split) -> tuple[float, float]:
        """Return the bounds of the hashes of the keys of a split."""
        test, validation = self._fraction("test"), self._fraction("validation")
        if split in self._files and split != "train":
            return 0.0, 1.0
        return {"test": (0.0, test), "validation": (test, test + validation), "train": (test + validation, 1.0)}[split]


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Return the name of each file, with as many folders before it as make the names of all differ."""
    parts = {
        file: [part for part in file.removesuffix(".parquet").replace(".", "_").split("/") if part] for file in files
    }
    names: dict[str, str] = {}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {file: "/".join(found[-count:]) for file, found in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _divide(rows: Sequence[int], at_most: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield groups of consecutive row groups with about `at_most` rows, and the number of their first row."""
    groups: list[int] = []
    first = row = 0
    for number, count in enumerate(rows):
        if groups and row + count - first > at_most:
            yield tuple(groups), first
            groups, first = [], row
        groups.append(number)
        row += count
    if groups:
        yield tuple(groups), first
