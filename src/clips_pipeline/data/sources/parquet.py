"""Parquet files with the images in them, as data sets of Hugging Face have them; local or remote, read in small batches."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from clips_pipeline.config import ConfigError, PositiveInt, Seed, digest_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.caption_values import CaptionTypeError
from clips_pipeline.data.shards.records import Record, SampleFields, Skip, is_label, parse_score
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.parquet_columns import ParquetColumns, Selector, check_columns, find_empty_column
from clips_pipeline.data.sources.source import ShardTask, Source, hash_to_unit_interval
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import expand_addresses, is_remote
from clips_pipeline.io.redact import redact

if TYPE_CHECKING:
    import pyarrow as pa

NO_SPLIT = "none"
_ROWS_PER_BATCH = 32
_FOOTERS_AT_A_TIME = 16
_MAGIC = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}


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

    def tasks(self, split: Split) -> Sequence[ShardTask]:
        """Return one task per `rows_per_task` rows of a file.

        Raises:
            ConfigError: a file lacks a column.
            StorageError: a file cannot be reached, and the storage has `unreachable: stop`.
        """
        files = self._files.get(split, self._files["train"])
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
        except _NotParquetError as error:
            return _Footer(fault=str(error))

    def _read_footer(self, file: str) -> _Footer:
        with _open(file, self.storage) as parquet:
            selectors = check_columns(self.config.columns, parquet.schema_arrow, file)
            metadata = parquet.metadata
            empty = find_empty_column(list(selectors.values()), metadata)
            if empty is not None:
                raise ConfigError(
                    f"{file}: column {empty!r} is empty in all {metadata.num_rows} rows; name another one"
                )
            return _Footer(tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)))

    def _check_first(self, split: Split, file: str) -> None:
        try:
            self._read_footer(file)
        except (StorageError, _NotParquetError) as error:
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


@dataclass(frozen=True)
class FaultyFileTask:
    """A file that is not Parquet or cannot be reached: a `sources.source.ShardTask`."""

    address: str
    fault: str

    def records(self) -> Iterator[Record | Skip]:
        """Yield the skip of the file."""
        yield Skip(records.UNREADABLE_SHARD, redact(self.address), self.fault)


@dataclass(frozen=True)
class ParquetTask:
    """Some row groups of a file: a `sources.source.ShardTask`.

    Attributes:
        address: path or URL.
        groups: numbers of the row groups.
        first: number of the first row in the file.
        columns: names of the columns.
        storage: access to the file.
        low: lower bound of the hashes of the keys to read, from 0 to 1.
        high: upper bound, excluded.
        seed: seed of the hash.
        limits: limits on a sample.
    """

    address: str
    groups: tuple[int, ...]
    first: int
    columns: ParquetColumns
    storage: Storage
    low: float = 0.0
    high: float = 1.0
    seed: int = 0
    limits: SampleLimits = DEFAULT_LIMITS

    def records(self) -> Iterator[Record | Skip]:
        """Yield the rows in order, and a `Skip` if the file cannot be read to the end.

        Raises:
            StorageError: the file cannot be read, and the storage has `unreachable: stop`.
        """
        row = self.first
        try:
            with _open(self.address, self.storage) as parquet:
                selectors = check_columns(self.columns, parquet.schema_arrow, self.address)
                wanted = sorted({_stored(parquet.schema_arrow, name, self.columns, selectors) for name in selectors})
                for batch in parquet.iter_batches(_ROWS_PER_BATCH, row_groups=list(self.groups), columns=wanted):
                    for at in range(batch.num_rows):
                        item = self._read(batch, at, row, selectors)
                        row += 1
                        if item is not None:
                            yield item
        except StorageError as error:
            if not self.storage.should_skip(error):
                raise
            yield Skip(records.UNREADABLE_SHARD, redact(self.address), str(error))
        except _NotParquetError as error:
            yield Skip(records.TRUNCATED_SHARD, redact(self.address), f"row {row}: {error}")

    def _read(self, batch: "pa.RecordBatch", at: int, row: int, selectors: dict[str, Selector]) -> Record | Skip | None:
        place = f"{redact(self.address)} row {row}"
        try:
            return self._parse(batch, at, row, place, selectors)
        except UnicodeDecodeError as error:
            return Skip(records.NOT_UTF8, place, str(error))
        except Exception as error:
            return make_skip(error, place)

    def _parse(
        self, batch: "pa.RecordBatch", at: int, row: int, place: str, selectors: dict[str, Selector]
    ) -> Record | Skip | None:
        columns = self.columns

        def value(name: str | None) -> Any:
            return None if name is None else selectors[name].pick(batch.column(selectors[name].column)[at].as_py())

        name = value(columns.key)
        if columns.key is not None and (name is None or name == ""):
            return Skip(records.BAD_RECORD, place, f"nothing under {columns.key!r}, which is its key")
        key = (f"{_stem(self.address)}/{row:09d}" if name is None else str(name)).replace(".", "_").strip("/")
        split_key = f"{self.seed}/{key}".encode("utf-8", "replace").decode()
        if not self.low <= hash_to_unit_interval(split_key) < self.high:
            return None
        image = _image_bytes(batch, at, selectors[columns.image])
        if not image:
            return Skip(records.MISSING_IMAGE, place, f"no bytes under {columns.image!r}")
        if len(image) > self.limits.max_image_bytes:
            most = self.limits.max_image_bytes
            return Skip(records.TOO_LARGE, place, f"its image has {len(image)} bytes; max_image_bytes is {most}")
        values = {text: value(text) for text in columns.texts}
        try:
            web, synthetic = columns.web_captions(values), columns.synthetic_captions(values)
        except CaptionTypeError as error:
            return Skip(records.BAD_RECORD, place, f"a caption {error}")
        for names, found in ((columns.web, web), (columns.synthetic, [text for text, _ in synthetic])):
            if names is not None and not any(text.strip() for text in found):
                reason = records.EMPTY_WEB_CAPTION if found is web else records.EMPTY_SYNTHETIC_CAPTION
                return Skip(reason, place, f"nothing under {names!r}")
        human = value(columns.captions) or []
        label = value(columns.label)
        if label is not None and not is_label(label):
            return Skip(
                records.BAD_RECORD, place, f"{columns.label!r} is {str(label)[:40]}; a class number from 0 is needed"
            )
        captions = tuple(text for text in human if isinstance(text, str))
        score = parse_score(value(columns.score))
        return Record(key, image, _extension(image), web, synthetic, captions, label, score, self.limits)


class _NotParquetError(Exception):
    """A file that is not Parquet, or is damaged where it is read."""


@contextmanager
def _open(address: str, storage: Storage) -> Iterator[Any]:
    """Open a file; pyarrow finds damaged pages only while it reads them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open(address) as file:
        try:
            # Without `pre_buffer`, only the current pages are in memory instead of a whole row group.
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise _NotParquetError(f"{redact(address)}: not a Parquet file, or a damaged one ({error})") from None


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


def _stored(schema: "pa.Schema", name: str, columns: ParquetColumns, selectors: dict[str, Selector]) -> str:
    """Return what is read of a column: of a struct with an image, only the bytes."""
    import pyarrow as pa

    selector = selectors[name]
    struct = name == columns.image and not selector.steps and pa.types.is_struct(schema.field(selector.column).type)
    return f"{selector.column}.bytes" if struct else selector.column


def _image_bytes(batch: "pa.RecordBatch", at: int, selector: Selector) -> bytes:
    found = selector.pick(batch.column(selector.column)[at].as_py())
    if isinstance(found, dict):
        found = found.get("bytes")
    return found if isinstance(found, bytes) else b""


def _extension(image: bytes) -> str:
    return _MAGIC.get(image[:2], "jpg")


def _stem(address: str) -> str:
    return address.rpartition("/")[2].removesuffix(".parquet")
