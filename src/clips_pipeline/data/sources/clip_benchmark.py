"""Evaluation data in the layout of CLIP_benchmark, local or remote.

ROOT/SPLIT/nshards.txt  0.tar 1.tar …           images with KEY.txt (captions, one per line) or KEY.cls (class number)
ROOT/classnames.txt                             one class per line, in the order of the numbers
ROOT/zeroshot_classification_templates.txt      one prompt per line, with {c} in place of the class name
ROOT/dataset_type.txt                           `retrieval` for captions
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt, Lt

from clips_pipeline.config import ConfigError, FormerName, to_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Classes, Split
from clips_pipeline.data.shards.tar_file import Members, TarFile
from clips_pipeline.data.sources.in_place import read_shard_records
from clips_pipeline.data.sources.source import ShardTask, Source, hash_to_unit_interval
from clips_pipeline.data.storage.files import Storage, StorageError

SHARD_COUNT, CLASS_NAMES = "nshards.txt", "classnames.txt"
TEMPLATES, SET_TYPE = "zeroshot_classification_templates.txt", "dataset_type.txt"
RETRIEVAL, CLASSIFICATION = "retrieval", "classification"
CLASS_PLACE = "{c}"


_MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class ClipBenchmarkConfig:
    """One dataset in the layout of CLIP_benchmark.

    Attributes:
        root: folder of the dataset, or its URL.
        split: split of the dataset that becomes this project's `test`.
        train_split: split of a classification dataset to train a probe on (`evaluate.probe_samples`); null for none.
        validation_fraction: fraction of `train_split` that becomes `validation`, chosen by a stable hash of the keys.
    """

    root: str
    split: str = "test"
    train_split: str | None = None
    validation_fraction: Annotated[float, Gt(0), Lt(1), FormerName("validation_share")] = 0.1


class ClipBenchmarkSource(Source):
    """A dataset for evaluation. Its samples need no synthetic captions, and no model is trained on it.

    Args:
        config: location and splits.
        storage: access to the files.
        limits: limits on a sample.

    Raises:
        ConfigError: the dataset is missing, has no number of shards, or has an unsupported type.
    """

    fields = SampleFields(needed=False)

    def __init__(self, config: ClipBenchmarkConfig, storage: Storage, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.config, self.storage, self.limits = config, storage, limits
        self.root = config.root.rstrip("/")
        self.addresses = self._shard_addresses(config.split)
        self.train_addresses = [] if config.train_split is None else self._shard_addresses(config.train_split)
        kind = (self._read_text(SET_TYPE) or CLASSIFICATION).strip().lower()
        if kind not in (RETRIEVAL, CLASSIFICATION):
            raise ConfigError(
                f"source.clip_benchmark: {self.root}/{SET_TYPE} says {kind!r}; only {RETRIEVAL} and {CLASSIFICATION} "
                "datasets can be evaluated"
            )
        self.is_retrieval = kind == RETRIEVAL
        if self.is_retrieval and self.train_addresses:
            raise ConfigError(
                f"source.clip_benchmark.train_split: {self.root} is a retrieval dataset, and a probe needs classes; set it "
                "to null"
            )
        self._classes = None if self.is_retrieval else self._read_classes()

    @property
    def splits(self) -> tuple[Split, ...]:
        """`test`; with a split to train a probe on, also `train` and `validation` before it."""
        return ("train", "validation", "test") if self.train_addresses else ("test",)

    def tasks(self, split: Split) -> Sequence[ShardTask]:
        """Return one task per shard; shards of `train_split` are read for `train` and for `validation`."""
        count = None if self._classes is None else len(self._classes.names)
        share = self.config.validation_fraction
        low, high = {"train": (share, 1.0), "validation": (0.0, share), "test": (0.0, 1.0)}[split]
        addresses = self.addresses if split == "test" else self.train_addresses
        return [BenchmarkTask(address, count, self.storage, low, high, self.limits) for address in addresses]

    def classes(self) -> Classes | None:
        """Return the classes of a classification dataset."""
        return self._classes

    def fingerprint(self) -> str:
        """Return the SHA-256 over classes, addresses, and sizes and times or entity tags of the shards.

        Raises:
            StorageError: a shard cannot be reached.
        """
        classes = None if self._classes is None else to_mapping(self._classes)
        facts: list[Any] = [classes, self.addresses, self.storage.identities(self.addresses)]
        if self.train_addresses:
            learned = self.storage.identities(self.train_addresses)
            facts += [self.config.validation_fraction, self.train_addresses, learned]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _shard_addresses(self, split: str) -> list[str]:
        count = self._read_text(f"{split}/{SHARD_COUNT}")
        if count is None:
            raise ConfigError(
                f"source.clip_benchmark: {self.root} has no {split}/{SHARD_COUNT}; give the folder that holds "
                f"{split}/ (source.clip_benchmark.root), or another split"
            )
        digits = count.strip()
        if not _is_number(digits, len(str(_MAX_SHARDS))) or not 1 <= int(digits) <= _MAX_SHARDS:
            raise ConfigError(
                f"source.clip_benchmark: {split}/{SHARD_COUNT} holds {digits[:40]!r}; write the number of shards, at most "
                f"{_MAX_SHARDS:,}"
            )
        return [f"{self.root}/{split}/{number}.tar" for number in range(int(digits))]

    def _read_classes(self) -> Classes:
        names, templates = self._read_lines(CLASS_NAMES), self._read_lines(TEMPLATES)
        try:
            return Classes(tuple(names), tuple(template.replace(CLASS_PLACE, "{}") for template in templates))
        except ConfigError as error:
            raise ConfigError(f"source.clip_benchmark: {self.root}: {error}") from None

    def _read_lines(self, name: str) -> list[str]:
        text = self._read_text(name)
        if text is None:
            raise ConfigError(
                f"source.clip_benchmark: {self.root} has no {name}, and its {SET_TYPE} does not say `{RETRIEVAL}`; "
                "add the one or the other"
            )
        # Labels are line numbers, so an empty line must not be skipped, except at the end of the file.
        lines = [line.strip() for line in text.rstrip().splitlines()]
        if "" in lines:
            raise ConfigError(
                f"source.clip_benchmark: {self.root}/{name}: line {lines.index('') + 1} is empty; fill it in, because "
                "labels are line numbers"
            )
        return lines

    def _read_text(self, name: str) -> str | None:
        """Return the content of a small text file of the dataset; None if it does not exist."""
        try:
            with self.storage.local_copy(f"{self.root}/{name}") as file:
                return file.read_text(encoding="utf-8")
        except StorageError as error:
            if error.missing:
                return None
            raise ConfigError(f"source.clip_benchmark: {error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"source.clip_benchmark: {self.root}/{name} is not UTF-8 ({error}); convert it") from None


@dataclass(frozen=True)
class BenchmarkTask:
    """One shard of a dataset: a `sources.source.ShardTask`.

    Attributes:
        address: address of the shard.
        classes: number of classes; None for a retrieval dataset.
        storage: access to the shard.
        low: lower bound of the key hashes of the samples to read, from 0 to 1.
        high: upper bound, excluded.
        limits: limits on a sample.
    """

    address: str
    classes: int | None
    storage: Storage
    low: float = 0.0
    high: float = 1.0
    limits: SampleLimits = DEFAULT_LIMITS

    def records(self) -> Iterator[Record | Skip]:
        """Yield the samples in order; keys are prefixed by the shard number, because shards repeat keys.

        Raises:
            StorageError: the shard cannot be read, and the storage has `unreachable: stop`.
        """
        for item in read_shard_records(self.address, self.storage, self._read, self.limits):
            # Shards of `train_split` are read twice; only the task with the upper part reports damage.
            if self.high == 1.0 or isinstance(item, Record) or item.reason != records.TRUNCATED_SHARD:
                yield item

    def _read(self, tar: TarFile, row: int) -> Record | Skip | None:
        prefix = self.address.rpartition("/")[2].removesuffix(".tar")
        key = f"{prefix}/{tar.keys[row].replace('.', '_')}"
        if not self.low <= hash_to_unit_interval(key) < self.high:
            return None
        members = tar.read(row)
        if members.image is None:
            return Skip(records.MISSING_IMAGE, members.key, "no image in the shard")
        make = self._caption if self.classes is None else self._class
        return make(key, members, members.image)

    def _caption(self, key: str, members: Members, image: bytes) -> Record | Skip:
        try:
            lines = (members.text or b"").decode().splitlines()
        except UnicodeDecodeError as error:
            return Skip(records.NOT_UTF8, members.key, str(error))
        captions = tuple(line.strip() for line in lines if line.strip())
        if not captions:
            return Skip(records.EMPTY_WEB_CAPTION, members.key, "no caption in its .txt")
        return Record(key, image, members.extension, (captions[0],), (), captions)

    def _class(self, key: str, members: Members, image: bytes) -> Record | Skip:
        text = (members.cls or b"").strip()
        if not _is_number(text.decode("ascii", "replace"), 10) or int(text) >= (self.classes or 0):
            return Skip(
                records.BAD_RECORD, members.key, f"its .cls holds {text[:20]!r}, there are {self.classes} classes"
            )
        return Record(key, image, members.extension, (), (), (), int(text))


def _is_number(text: str, max_digits: int) -> bool:
    """Return whether text is a whole number; `isdigit` alone accepts `²`, and Python converts no 5,000 digits."""
    return text.isascii() and text.isdigit() and len(text) <= max_digits
