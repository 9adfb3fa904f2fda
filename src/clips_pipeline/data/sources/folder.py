"""A folder of images and one file of captions."""

import hashlib
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from clips_pipeline.config import (
    ConfigError,
    FormerName,
    PositiveInt,
    Seed,
    digest_mapping,
    from_mapping,
    to_mapping,
)
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Record, Skip, captioner_order
from clips_pipeline.data.shards.splits import Classes, Split
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.captions_file import CaptionFields, CaptionRow, read_captions
from clips_pipeline.data.sources.source import ShardTask, Source, hash_to_unit_interval
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.json_text import parse_json


@dataclass(frozen=True)
class FolderConfig:
    """Location of images and captions, and how they are split.

    Attributes:
        images: folder of the images; only regular files inside it are read; links that lead out are skipped.
        captions: JSON: a list of `{image, captions: [...]}`, optionally with `caption` (web) and `long_caption`
            (synthetic). CSV: columns `image`, `caption` and optionally `long_caption`; an image may have several rows.
            Parquet: columns like the keys of JSON.
        fields: other names of these keys or columns.
        classes: JSON: `{names: [...], templates: [...]}`, for zero-shot evaluation by the labels of the captions file;
            templates have `{}` in place of the class name.
        evaluate_on: `held_out` splits the images by a stable hash of their keys; `train` puts all images into every
            split, to test whether a model can overfit a few images.
        validation_fraction: fraction of the images, with `held_out`; 0 for no such split.
        test_fraction: fraction of the images, with `held_out`; 0 for no such split.
        split_seed: seed of the hash.
        images_per_task: number of images that one process reads at a time; each task starts a new shard.
    """

    images: str
    captions: str
    fields: CaptionFields = field(default_factory=CaptionFields)
    classes: str | None = None
    evaluate_on: Literal["held_out", "train"] = "held_out"
    validation_fraction: Annotated[float, Ge(0), Lt(1), FormerName("validation_share")] = 0.05
    test_fraction: Annotated[float, Ge(0), Lt(1), FormerName("test_share")] = 0.05
    split_seed: Seed = 0
    images_per_task: PositiveInt = 1_000

    def __post_init__(self) -> None:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ConfigError("validation_fraction: with test_fraction it leaves nothing to train on; lower them")


@dataclass(frozen=True)
class FolderTask:
    """Images of a split, by their rows. A label must be below `classes`; None allows any label."""

    folder: Path
    rows: tuple[CaptionRow, ...]
    classes: int | None = None
    limits: SampleLimits = DEFAULT_LIMITS

    def records(self) -> Iterator[Record | Skip]:
        """Read the images in the order of the captions file."""
        for row in self.rows:
            try:
                item = _read_record(self.folder, row, self.classes, self.limits)
            except Exception as error:
                item = make_skip(error, row.image)
            yield item


class FolderSource(Source):
    """A folder of images with a captions file.

    Args:
        config: folder, captions file and split.
        limits: limits on a sample.

    Raises:
        ConfigError: the folder, the captions file or the file of the classes is missing or unreadable, or none of the
            images in the captions file exists.
    """

    def __init__(self, config: FolderConfig, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.config, self.limits = config, limits
        self.folder = Path(config.images).resolve()
        if not self.folder.is_dir():
            raise ConfigError(f"source.folder.images: {self.folder} is not a folder; give the folder of the images")
        self.rows = read_captions(Path(config.captions), config.fields)
        self._classes = None if config.classes is None else _read_classes(Path(config.classes))
        if not any(isinstance(_locate(self.folder, row.image), Path) for row in self.rows if row.fault is None):
            raise ConfigError(
                f"source.folder.images: none of the {len(self.rows)} images named in {config.captions} is in "
                f"{self.folder} (the first is {self.rows[0].image!r}); give the folder these names are relative to"
            )

    @property
    def splits(self) -> tuple[Split, ...]:
        """`train`, and `validation` and `test` if their fractions are above 0 or every split has all images."""
        if self.config.evaluate_on == "train":
            return ("train", "validation", "test")
        validation: tuple[Split, ...] = ("validation",) if self.config.validation_fraction else ()
        return ("train", *validation, "test") if self.config.test_fraction else ("train", *validation)

    @property
    def captioners(self) -> tuple[str, ...]:
        """Those of the captions file's fields."""
        return self.config.fields.captioners

    def tasks(self, split: Split) -> list[ShardTask]:
        """Return the images of `split` in the order of the captions file, `images_per_task` per task."""
        rows = self._rows_by_split.get(split, [])
        step = self.config.images_per_task
        count = None if self._classes is None else len(self._classes.names)
        return [
            FolderTask(self.folder, tuple(rows[at : at + step]), count, self.limits) for at in range(0, len(rows), step)
        ]

    def classes(self) -> Classes | None:
        """Return the classes of the classes file."""
        return self._classes

    def fingerprint(self) -> str:
        """Return the SHA-256 over configuration, captions file and images; independent of paths and times."""
        total = hashlib.sha256()
        paths = ("images", "captions", "classes")
        settings = {key: value for key, value in digest_mapping(self.config).items() if key not in paths}
        settings["classes"] = None if self._classes is None else to_mapping(self._classes)
        settings |= captioner_order(self.config.fields.long_caption)
        total.update(json.dumps(settings, sort_keys=True).encode())
        total.update(file_sha256(Path(self.config.captions)).encode())
        for row in self.rows:
            image = _locate(self.folder, row.image) if row.fault is None else None
            content = file_sha256(image) if isinstance(image, Path) else "missing"
            total.update(json.dumps([row.image, content]).encode())
        return total.hexdigest()

    @cached_property
    def _rows_by_split(self) -> dict[Split, list[CaptionRow]]:
        if self.config.evaluate_on == "train":
            return dict.fromkeys(self.splits, self.rows)
        parts: dict[Split, list[CaptionRow]] = {split: [] for split in self.splits}
        for row in self.rows:
            parts[self._split_of(row)].append(row)
        return parts

    def _split_of(self, row: CaptionRow) -> Split:
        place = hash_to_unit_interval(f"{self.config.split_seed}/{image_key(row.image)}")
        if place < self.config.test_fraction:
            return "test"
        return "validation" if place < self.config.test_fraction + self.config.validation_fraction else "train"


def image_key(image: str) -> str:
    """Return the key of an image: its relative path without the extension, with other '.' replaced by '_'."""
    path = PurePosixPath(image.replace("\\", "/"))
    return str(path.with_suffix("") if path.suffix else path).replace(".", "_").strip("/")


def _read_classes(file: Path) -> Classes:
    where = f"source.folder.classes: {file}"
    try:
        return from_mapping(Classes, parse_json(file.read_text(encoding="utf-8")), where)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror}); give the path of a JSON file") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where} is not valid JSON ({error}); repair it") from None


def _read_record(folder: Path, row: CaptionRow, classes: int | None, limits: SampleLimits) -> Record | Skip:
    if row.fault is not None:
        return Skip(records.BAD_RECORD, row.image, row.fault)
    if classes is not None and row.label is not None and row.label >= classes:
        return Skip(
            records.BAD_RECORD, row.image, f"label {row.label}, but source.folder.classes names {classes}, from 0"
        )
    file = _locate(folder, row.image)
    if isinstance(file, str):
        return Skip(records.MISSING_IMAGE, row.image, f"{folder / row.image}: {file}")
    try:
        image = read_image(file, limits)
    except TooLargeImageError as error:
        return Skip(error.reason, row.image, str(error))
    except OSError as error:
        return Skip(records.MISSING_IMAGE, row.image, f"{file}: {error}")
    ending = file.suffix.lower().removeprefix(".")
    extension = "jpg" if ending == "jpeg" else ending
    return Record(image_key(row.image), image, extension, row.web, row.synthetic, row.captions, row.label, row.score)


def _locate(folder: Path, image: str) -> Path | str:
    """Return the file of an image in a resolved folder, or why there is none: only regular files inside it are read.

    A captions file is data: `../` and links must not lead to other files of this machine, and a FIFO would block.
    """
    try:
        file = folder / image
        real = file.resolve(strict=True)
        if not real.is_relative_to(folder):
            return "leads out of source.folder.images; copy the file into the folder"
        return file if stat.S_ISREG(real.stat().st_mode) else "not a regular file"
    except (OSError, ValueError, RuntimeError) as error:
        return str(error)
