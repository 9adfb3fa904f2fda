"""Opening of the sets of a suite: present with the published counts, or absent."""

import logging
from dataclasses import dataclass
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.data.sources.clip_benchmark import SHARD_COUNT, ClipBenchmarkConfig, ClipBenchmarkSource
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.evaluation.metrics.pair_files import (
    Entries,
    read_mmvp_vlm,
    read_sugarcrepe,
    read_sugarcrepe_pp,
    read_winoground,
)
from clips_pipeline.evaluation.suite.captioned import open_captioned
from clips_pipeline.evaluation.suite.class_folders import open_class_folders, open_objectnet
from clips_pipeline.evaluation.suite.config import PAIR_KINDS, SetConfig
from clips_pipeline.evaluation.suite.image_set import ImageSet, TarSet
from clips_pipeline.io.digests import json_sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenSet:
    """A set that is present.

    Attributes:
        name: its name in the suite.
        config: its configuration.
        images: the set, if it is for retrieval or zero-shot classification.
        entries: its entries, if it is a compositionality set.
    """

    name: str
    config: SetConfig
    images: ImageSet | None = None
    entries: Entries | None = None

    @property
    def identity(self) -> str:
        """Digest that changes when the files of the set change, without their content being read."""
        if self.images is not None:
            return self.images.identity
        assert self.entries is not None  # noqa: S101
        stats = [(path, path.stat()) for path in self.entries.images]
        files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        return json_sha256([self.entries.__class__.__name__, repr(self.entries), files])

    @property
    def weight(self) -> int:
        """Number of images, where it is known, to begin with the largest sets."""
        if self.entries is not None:
            return len(self.entries.images)
        return (self.images.sizes[0] if self.images is not None else None) or self.config.images or 0


@dataclass(frozen=True)
class AbsentSet:
    """A set that is not here.

    Attributes:
        name: its name in the suite.
        config: its configuration.
        reason: what is missing.
    """

    name: str
    config: SetConfig
    reason: str


def open_set(name: str, config: SetConfig, storage: Storage) -> OpenSet | AbsentSet:
    """Open a set and compare its counts with the published ones, as far as they are known before its images are read.

    Args:
        name: its name in the suite.
        config: its form and place.
        storage: access to remote sets.

    Raises:
        ConfigError: a file of the set is missing or not in its published form, or a count differs; the message begins with the
            set's key.
        StorageError: a remote set cannot be reached.
    """
    for key, path in (("path", config.path), ("images_path", config.images_path)):
        if path is None and key == "path":
            return AbsentSet(name, config, "no path")
        if path is not None and not is_remote(path) and not Path(path).exists():
            return AbsentSet(name, config, f"{path} does not exist")
    try:
        found = _open(name, config, storage)
    except ConfigError as error:
        raise ConfigError(f"suite.sets.{name}: {error}") from None
    if isinstance(found, AbsentSet):
        return found
    images, captions = (None, None) if found.images is None else found.images.sizes
    check_counts(name, config, images, captions, None if found.entries is None else found.entries.count)
    return found


def check_counts(
    name: str,
    config: SetConfig,
    images: int | None,
    captions: int | None,
    entries: int | None = None,
    skipped: str = "",
) -> None:
    """Compare counts with the published ones; None is not known.

    Args:
        name: name of the set.
        config: the published counts.
        images: number of images.
        captions: number of captions.
        entries: number of entries of a compositionality set.
        skipped: samples that were left out, for the message.

    Raises:
        ConfigError: a count differs; the message names both numbers.
    """
    counts = (
        ("images", images, config.images),
        ("captions", captions, config.captions),
        ("entries", entries, config.entries),
    )
    wrong = [
        f"{kind}: {found:,} found, {published:,} published"
        for kind, found, published in counts
        if found is not None and published is not None and found != published
    ]
    if wrong:
        raise ConfigError(
            f"suite.sets.{name}: {'; '.join(wrong)}{skipped}; download the whole set again, or correct the number in its "
            "configuration (null: not checked)"
        )


def _open(name: str, config: SetConfig, storage: Storage) -> OpenSet | AbsentSet:
    assert config.path is not None  # noqa: S101
    if config.kind == "clip_benchmark":
        if is_remote(config.path):
            count = f"{config.path.rstrip('/')}/{config.split}/{SHARD_COUNT}"
            try:
                storage.size(count)
            except StorageError as error:
                if error.missing:
                    return AbsentSet(name, config, f"{count} does not exist")
                raise
        source = ClipBenchmarkSource(ClipBenchmarkConfig(config.path, config.split), storage)
        return OpenSet(name, config, TarSet(source))
    path = Path(config.path)
    if config.kind in PAIR_KINDS:
        return OpenSet(name, config, entries=_read_pairs(config, path))
    if config.kind == "class_folders":
        return OpenSet(name, config, open_class_folders(config, path))
    if config.kind == "objectnet":
        return OpenSet(name, config, open_objectnet(path))
    return OpenSet(name, config, open_captioned(config, path))


def _read_pairs(config: SetConfig, path: Path) -> Entries:
    if config.kind == "winoground":
        return read_winoground(path)
    if config.kind == "mmvp_vlm":
        return read_mmvp_vlm(path)
    read = read_sugarcrepe if config.kind == "sugarcrepe" else read_sugarcrepe_pp
    return read(path, Path(config.images_path or path))
