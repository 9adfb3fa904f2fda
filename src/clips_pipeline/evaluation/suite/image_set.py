"""A set of images with captions or labels, read from files or from tar files, and the digest of its content."""

import hashlib
import json
import logging
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkSource
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.evaluation.inference.embed import retrieval_texts
from clips_pipeline.io.digests import json_sha256

log = logging.getLogger(__name__)


class ImageSet(Protocol):
    """A set for retrieval or zero-shot classification."""

    @property
    def classes(self) -> Classes | None:
        """Classes of the labels; None for a retrieval set."""
        ...

    @property
    def identity(self) -> str:
        """Digest that changes when the files change: names, captions, labels, sizes and times, but not the content of images."""
        ...

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """Numbers of images and captions, as far as they are known without reading the images."""
        ...

    def records(self) -> Iterator[Record | Skip]:
        """Read the samples in a fixed order.

        Raises:
            ConfigError: an image cannot be read.
        """
        ...


@dataclass(frozen=True)
class ImageItem:
    """One image file with its captions or its label."""

    key: str
    file: Path
    captions: tuple[str, ...] = ()
    label: int | None = None


@dataclass(frozen=True)
class FileSet:
    """An `ImageSet` of image files.

    Attributes:
        items: the images.
        classes: classes of the labels.
        identity: see `ImageSet`.
    """

    items: tuple[ImageItem, ...]
    classes: Classes | None
    identity: str

    @classmethod
    def of(cls, items: Sequence[ImageItem], classes: Classes | None, where: Path) -> "FileSet":
        """Check that every image exists and every key is unique.

        Args:
            items: the images.
            classes: classes of the labels.
            where: file or folder that names them, for messages.

        Raises:
            ConfigError: there is no image, an image is missing, or a key occurs twice.
        """
        if not items:
            raise ConfigError(f"{where}: names no images of this split; use the published files of this set")
        digest = hashlib.sha256(json_sha256(None if classes is None else to_mapping(classes)).encode())
        missing: list[Path] = []
        for item in items:
            try:
                found = item.file.stat()
            except OSError:
                missing.append(item.file)
                continue
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{item.file}: no regular file; download it again")
            facts = [item.key, item.captions, item.label, found.st_size, found.st_mtime_ns]
            digest.update(json.dumps(facts).encode() + b"\n")
        if missing:
            raise ConfigError(
                f"{where}: {len(missing)} of {len(items)} images do not exist, such as {missing[0]}; download the whole set"
            )
        if len({item.key for item in items}) < len(items):
            twice = next(key for key, count in Counter(item.key for item in items).items() if count > 1)
            raise ConfigError(f"{where}: image {twice} is named twice; use the published files of this set")
        return cls(tuple(items), classes, digest.hexdigest())

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """See `ImageSet`."""
        captions = None if self.classes is not None else sum(len(item.captions) for item in self.items)
        return len(self.items), captions

    def records(self) -> Iterator[Record | Skip]:
        """See `ImageSet`."""
        for item in self.items:
            try:
                image = read_image(item.file)
            except (OSError, TooLargeImageError) as error:
                raise ConfigError(f"{item.file}: cannot be read ({error}); download it again") from None
            yield Record(item.key, image, "jpg", item.captions[:1], (), item.captions, item.label)


@dataclass(frozen=True)
class TarSet:
    """An `ImageSet` in CLIP_benchmark's layout, local or remote.

    Attributes:
        source: the opened set.
        identity: see `ImageSet`.
    """

    source: ClipBenchmarkSource
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self.source.fingerprint())

    @property
    def classes(self) -> Classes | None:
        """See `ImageSet`."""
        return self.source.classes()

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """The number of images of local tar files; that of remote ones and of captions is known when they have been read."""
        if any(map(is_remote, self.source.addresses)):
            return None, None
        images = 0
        for address in self.source.addresses:
            try:
                with TarFile(Path(address), self.source.limits) as tar:
                    images += len(tar.keys)
            except (OSError, BadSampleError):
                return None, None  # reading it tells what is wrong
        return images, None

    def records(self) -> Iterator[Record | Skip]:
        """See `ImageSet`."""
        for task in self.source.tasks("test"):
            yield from task.records()


class CountedRecords:
    """Reads a set once, counts images, captions and skipped samples, and computes the digest of its content.

    Attributes:
        images, captions: numbers of what was read.
        skipped: samples that were left out, by reason.
        digest: digest of keys, captions, labels and image bytes; empty until everything has been read.
    """

    def __init__(self, images: ImageSet) -> None:
        self._set = images
        self.images = self.captions = 0
        self.skipped: Counter[str] = Counter()
        self.digest = ""

    def read(self) -> Iterator[Record]:
        """Yield the samples."""
        self.images = self.captions = 0
        self.skipped.clear()
        digest = hashlib.sha256()
        for found in self._set.records():
            if isinstance(found, Skip):
                self.skipped[found.reason] += 1
                if self.skipped[found.reason] == 1:
                    log.warning("skipped: %s %s: %s", found.reason, found.key, found.detail)
                continue
            texts = retrieval_texts(found)
            self.images, self.captions = self.images + 1, self.captions + len(texts)
            facts: list[Any] = [found.key, texts, found.label, hashlib.sha256(found.image).hexdigest()]
            digest.update(json.dumps(facts).encode() + b"\n")
            yield found
        self.digest = digest.hexdigest()
