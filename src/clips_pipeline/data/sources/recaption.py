"""Shards or folders of images, joined with tables of captions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from annotated_types import Ge, Gt, Lt

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveInt, digest_mapping, to_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.records import Names, captioner_names
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.caption_table import COUNTS_FILE, CaptionTable
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.sources.join_tasks import FolderJoinTask, Join, JoinTask, ShardJoinTask, find_images
from clips_pipeline.data.sources.source import Source, hash_to_unit_interval
from clips_pipeline.data.sources.table_build import build_table, check_conflicts
from clips_pipeline.data.sources.table_rows import TableColumns
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote

_IMAGES_PER_TASK = 1_000


@dataclass(frozen=True)
class RecaptionConfig:
    """Shards or images, tables, and how to join them.

    Attributes:
        train: shards to train on, as in `img2dataset`; or a local folder of images.
        tables: files of captions, with `{…}`, `::`, lists and `*`: Parquet, or `.csv`, `.tsv`, also with `.gz` or `.zst`.
        validation: shards to monitor training with, or `none`, as in `img2dataset`.
        test: shards for the final evaluation, or `none`, as in `img2dataset`.
        held_out: number of shards for each of the two without addresses.
        held_out_fraction: of a folder of images, the fraction for each of the two that is not `none`, by a stable hash of the keys.
        on: how a sample finds its row: `key` by its key (of an image in a folder: its relative path, with or without ending),
            `url` or `sha256` by that field of its JSON (of an image in a folder: `sha256` of the file).
        columns: names of columns of the tables.
        web: name of the web caption field of the shards, like `web` of `SampleFields`.
        keys_repeat: like `keys_repeat` of `SampleFields`.
        memory_mib: memory for the join, in MiB; larger tables take longer, not more memory.
        max_conflicts: number of keys whose rows have different captions above which the run stops; null for any number,
            of which the first row is used.
    """

    train: str | tuple[str, ...]
    tables: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    held_out: PositiveInt = 1
    held_out_fraction: Annotated[float, Gt(0), Lt(0.5)] = 0.05
    on: Literal["key", "url", "sha256"] = "key"
    columns: TableColumns = field(default_factory=TableColumns)
    web: Names = "txt"
    keys_repeat: bool = False
    memory_mib: Annotated[int, Ge(128)] = 512
    max_conflicts: NonNegativeInt | None = None


class _Samples(Protocol):
    """One side of the join."""

    @property
    def splits(self) -> tuple[Split, ...]: ...

    def join_tasks(self, split: Split, join: Join) -> list[JoinTask]: ...

    def fingerprint(self) -> str: ...


class RecaptionSource(Source):
    """The join as a source. The table is built when the tasks are first requested.

    Args:
        config: samples and tables.
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
        self._samples: _Samples = _make_samples(config, storage)
        try:
            self.tables = [
                table for pattern in expand_addresses(config.tables) for table in _matching_files(pattern, storage)
            ]
        except StorageError as error:
            raise ConfigError(f"source.recaption.tables: {error}") from None

    @property
    def splits(self) -> tuple[Split, ...]:
        """As of `img2dataset`."""
        return self._samples.splits

    @property
    def captioners(self) -> tuple[str, ...]:
        """Those of the columns of the tables."""
        return captioner_names(self.config.columns.synthetic)

    def tasks(self, split: Split) -> Sequence[JoinTask]:
        """Return one task per shard, or per thousand images of a folder.

        Raises:
            ConfigError: see `build_table`.
            StorageError: a table cannot be read.
        """
        return self._samples.join_tasks(split, self._join(self._table()))

    def fingerprint(self) -> str:
        """Return the SHA-256 over field and column names, and the identities of samples and tables.

        Raises:
            StorageError: a shard or a table cannot be reached.
        """
        columns = digest_mapping(self.config.columns)
        tables = _digest([self._identities(), self.config.on, columns, self.limits.max_caption_bytes])
        facts: list[Any] = [self._samples.fingerprint(), tables, self.config.on, self.config.web]
        if self.config.keys_repeat:
            facts.append("keys_repeat")
        if self.config.max_conflicts is not None:
            facts.append(self.config.max_conflicts)
        return _digest(facts)

    def notes(self) -> dict[str, int]:
        """Return the number of used, unmatched, repeated and other table rows; call it after all tasks are done.

        Raises:
            StorageError: the matches of a task were deleted, and its shard cannot be read again.
        """
        table = self._table()
        counts, join = table.counts, self._join(table)
        seen = np.zeros((counts.rows + 7) // 8, np.uint8)
        for task in (task for split in self.splits for task in self._samples.join_tasks(split, join)):
            numbers = task.matched_rows()
            np.bitwise_or.at(seen, numbers >> 3, (1 << (numbers & 7)).astype(np.uint8))
        matched = int(np.bitwise_count(seen).sum())
        found = {
            "table_rows_used": matched,
            "table_rows_without_sample": counts.rows - matched,
            "table_rows_repeated": counts.repeated,
            "table_rows_empty": counts.empty,
        }
        others = {"table_rows_faulty": counts.faulty, "table_keys_in_conflict": counts.conflicts}
        return found | {name: count for name, count in others.items() if count}

    def explain_no_row(self) -> str | None:
        """Return how the keys of the tables look."""
        column, first = self.config.columns.key or self.config.on, str(self._table().read(0)["key"])[:200]
        return f"the first {column!r} of the tables is {first!r}; set source.recaption.on and .columns.key to what both sides have"

    def _join(self, table: CaptionTable) -> Join:
        config = self.config
        return Join(table, config.on, config.columns, config.web, config.keys_repeat, self.storage, self.limits)

    def _table(self) -> CaptionTable:
        folder = self.work / self._table_fingerprint()[:16]
        config = self.config
        if (folder / COUNTS_FILE).is_file():
            table = CaptionTable(folder)
            check_conflicts(table.counts, config.max_conflicts)
            return table
        return build_table(
            self.tables,
            self.storage,
            folder,
            key=config.on,
            columns=config.columns,
            memory_mib=config.memory_mib,
            max_conflicts=config.max_conflicts,
            max_caption_bytes=self.limits.max_caption_bytes,
        )

    def _table_fingerprint(self) -> str:
        """Return what names the folder of the table; the same tables are not read again for another `max_conflicts`."""
        columns = to_mapping(self.config.columns)
        return _digest([self._identities(), self.config.on, columns, self.limits.max_caption_bytes])

    def _identities(self) -> list[tuple[str, str]]:
        return list(zip(self.tables, self.storage.identities(self.tables), strict=True))


class _Shards(Img2datasetSource):
    """Shards as one side of the join."""

    def join_tasks(self, split: Split, join: Join) -> list[JoinTask]:
        """Return one task per shard."""
        return [ShardJoinTask(join, address) for address in self.addresses(split)]


class _Images:
    """A folder of images as one side of the join."""

    def __init__(self, config: RecaptionConfig) -> None:
        self._config = config
        if config.on == "url" or config.columns.web is None:
            what = (
                "on: a folder of images has no url; use key or sha256"
                if config.on == "url"
                else "columns.web: a folder of images has no web captions; name the column that has them"
            )
            raise ConfigError(f"source.recaption.{what}")
        self._folder = Path(str(config.train).removeprefix("file://")).resolve()
        self._images = find_images(self._folder)
        if not self._images:
            raise ConfigError(
                f"source.recaption.train: {self._folder} has no image; give a folder of images, or shards"
            )
        others = [name for name in ("validation", "test") if getattr(config, name) not in (None, "none")]
        if others:
            raise ConfigError(
                f"source.recaption.{others[0]}: train is a folder of images, which is split by held_out_fraction; give null or none"
            )

    @property
    def splits(self) -> tuple[Split, ...]:
        validation: tuple[Split, ...] = () if self._config.validation == "none" else ("validation",)
        return ("train", *validation) if self._config.test == "none" else ("train", *validation, "test")

    def join_tasks(self, split: Split, join: Join) -> list[JoinTask]:
        images = [image for image in self._images if self._split_of(image) == split]
        return [
            FolderJoinTask(join, self._folder, tuple(images[at : at + _IMAGES_PER_TASK]))
            for at in range(0, len(images), _IMAGES_PER_TASK)
        ]

    def fingerprint(self) -> str:
        """Return the SHA-256 over the fraction, and the names, sizes and times of the images; they are not read."""
        total = hashlib.sha256(f"{self._config.held_out_fraction} {self.splits}\n".encode())
        for image in self._images:
            stat = (self._folder / image).stat()
            total.update(f"{image} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
        return total.hexdigest()

    def _split_of(self, image: str) -> Split:
        place, share = hash_to_unit_interval(image), self._config.held_out_fraction
        parts: list[Split] = [split for split in ("test", "validation") if split in self.splits]
        return next((split for number, split in enumerate(parts, 1) if place < number * share), "train")


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _make_samples(config: RecaptionConfig, storage: Storage) -> _Samples:
    train = config.train if isinstance(config.train, str) else ""
    if train and not is_remote(train) and Path(train.removeprefix("file://")).is_dir():
        return _Images(config)
    try:
        shards = Img2datasetConfig(config.train, config.validation, config.test, config.held_out, rewrite=True)
        return _Shards(shards, storage)
    except ConfigError as error:
        raise ConfigError(str(error).replace("source.img2dataset", "source.recaption")) from None


def _matching_files(pattern: str, storage: Storage) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    found = storage.list(pattern)
    if not found:
        raise ConfigError(f"source.recaption.tables: no file matches {pattern}; name Parquet or CSV files")
    return found
