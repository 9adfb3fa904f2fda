"""Tasks that join samples with a table of captions: those of a shard, or some images of a folder."""

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits, find_excess
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.caption_values import CaptionTypeError, drop_blank, parse_captions
from clips_pipeline.data.shards.reader import parse_json, parse_sample, prefix_key
from clips_pipeline.data.shards.records import Caption, Names, Record, SampleFields, Skip, captioner_fields, parse_score
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.sources.caption_table import CaptionTable
from clips_pipeline.data.sources.folder import image_key
from clips_pipeline.data.sources.in_place import read_shard_records
from clips_pipeline.data.sources.table_rows import TableColumns
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.io.atomic import replace_file

_IMAGE_ENDINGS = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


@dataclass(frozen=True)
class Join:
    """A table, and how samples find their rows in it.

    Attributes:
        table: the table.
        on: see `RecaptionConfig`.
        columns: columns of the table.
        web: field of the web caption in the shards.
        keys_repeat: whether the name of the shard is put before each key.
        storage: access to the samples.
        limits: limits on a sample.
    """

    table: CaptionTable
    on: str
    columns: TableColumns
    web: Names
    keys_repeat: bool
    storage: Storage
    limits: SampleLimits = DEFAULT_LIMITS

    def synthetic(self, values: dict[str, Any]) -> tuple[Caption, ...]:
        """Return the synthetic captions of a row.

        Raises:
            CaptionTypeError: a column holds no captions.
        """
        names = captioner_fields(self.columns.synthetic)
        found = [parse_captions(values[f"s{number}"], captioner) for number, (captioner, _) in enumerate(names)]
        return drop_blank([caption for of_column in found for caption in of_column])

    def web_captions(self, values: dict[str, Any]) -> tuple[str, ...] | None:
        """Return the web captions of a row; None if the table or the row (null) has none, so that the sample keeps its own.

        Raises:
            CaptionTypeError: a column holds no captions.
        """
        columns = range(len(self.columns.web_names))
        found = [one for number in columns for one in parse_captions(values[f"w{number}"])]
        return tuple(caption.text for caption in drop_blank(found)) if found else None


class JoinTask(ABC):
    """Samples with captions from a table: a `sources.source.ShardTask`."""

    join: Join

    @abstractmethod
    def joined(self, matched: list[int]) -> Iterator[Record | Skip]:
        """Yield the samples in order and add the numbers of their rows to `matched`."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the samples are, such as the address of their shard."""

    def records(self) -> Iterator[Record | Skip]:
        """Yield the samples in order; a sample without a row in the table gives a `Skip`.

        Raises:
            StorageError: the shard cannot be read, and the storage has `unreachable: stop`.
        """
        matched: list[int] = []
        try:
            yield from self.joined(matched)
        except GeneratorExit:
            self.save_matched(matched)
            raise
        self.save_matched(matched)

    def save_matched(self, matched: Sequence[int]) -> None:
        """Write the numbers of the matched rows, from which `RecaptionSource.notes` counts the unmatched ones."""
        self._matched_file.parent.mkdir(exist_ok=True)
        with replace_file(self._matched_file) as temporary, temporary.open("wb") as opened:
            np.save(opened, np.array(matched, np.int64))

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
        digest = hashlib.sha256(self.identity.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self.join.table.folder / "matched" / f"{digest}.npy"


@dataclass(frozen=True)
class ShardJoinTask(JoinTask):
    """The samples of one shard."""

    join: Join
    address: str

    @property
    def identity(self) -> str:
        """The address."""
        return self.address

    def joined(self, matched: list[int]) -> Iterator[Record | Skip]:
        """Yield the samples of the shard."""
        read = partial(self._read, matched=matched)
        yield from read_shard_records(self.address, self.join.storage, read, self.join.limits)

    def _read(self, tar: TarFile, row: int, matched: list[int]) -> Record | Skip:
        join = self.join
        members = tar.read(row)
        key = members.key.rpartition("/")[2]
        if join.on != "key":
            value = parse_json(members, join.limits).get(join.on)
            if not isinstance(value, str):
                return Skip(records.BAD_RECORD, members.key, f"its JSON has no text under {join.on!r}")
            key = value
        found = join.table.find(key)
        if found is None:
            return Skip(records.NO_TABLE_ROW, members.key, f"no row of the tables has this {join.on}: {key[:200]}")
        matched.append(found.number)
        try:
            synthetic, web = join.synthetic(found.values), join.web_captions(found.values)
        except CaptionTypeError as error:
            return Skip(records.BAD_RECORD, members.key, f"its row of the tables {error}")
        if join.keys_repeat:
            members = prefix_key(members, self.address)
        record = parse_sample(members, SampleFields(web=join.web), synthetic=synthetic, web=web, limits=join.limits)
        return replace(record, score=parse_score(found.values.get("score")))


@dataclass(frozen=True)
class FolderJoinTask(JoinTask):
    """Some images of a folder.

    Attributes:
        join: the table.
        folder: the folder, resolved.
        images: relative paths.
    """

    join: Join
    folder: Path
    images: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The folder and the first image; an image is in one task."""
        return f"{self.folder}\n{self.images[0]}"

    def joined(self, matched: list[int]) -> Iterator[Record | Skip]:
        """Yield the images in order."""
        for image in self.images:
            try:
                yield self._read(image, matched)
            except BadSampleError as bad:
                yield bad.skip
            except Exception as error:
                yield make_skip(error, image)

    def _read(self, image: str, matched: list[int]) -> Record | Skip:
        join = self.join
        try:
            content = read_image(self.folder / image, join.limits)
        except TooLargeImageError as error:
            return Skip(error.reason, image, str(error))
        except OSError as error:
            return Skip(records.MISSING_IMAGE, image, f"{self.folder / image}: {error}")
        names = (image, image.rpartition(".")[0])
        if join.on == "sha256":
            names = (hashlib.sha256(content).hexdigest(),) * 2
        found = join.table.find(names[0]) or join.table.find(names[1])
        if found is None:
            return Skip(records.NO_TABLE_ROW, image, f"no row of the tables has this {join.on}: {names[0]}")
        matched.append(found.number)
        try:
            synthetic, web = join.synthetic(found.values), join.web_captions(found.values) or ()
        except CaptionTypeError as error:
            return Skip(records.BAD_RECORD, image, f"its row of the tables {error}")
        for text in (*web, *(caption.text for caption in synthetic)):
            if (excess := find_excess(text, join.limits)) is not None:
                return Skip(excess[0], image, excess[1])
        extension = _IMAGE_ENDINGS[PurePosixPath(image).suffix.lower()]
        score = parse_score(found.values.get("score"))
        return Record(image_key(image), content, extension, web, synthetic, score=score)


def find_images(folder: Path) -> list[str]:
    """Return the relative paths of all regular files below a folder that end like images, sorted; links are left out."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            file = Path(parent, name)
            if file.suffix.lower() in _IMAGE_ENDINGS and stat.S_ISREG(file.lstat().st_mode):
                found.append(file.relative_to(folder).as_posix())
    return sorted(found)
