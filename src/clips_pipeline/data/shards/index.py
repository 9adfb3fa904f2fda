"""Index of the shards: `index.json` beside the folders of the splits.

shards/index.json
shards/classes.json                  only if samples carry labels
shards/spans.bin                     offsets of the samples in their tar files (`sample_offsets`)
shards/train/00000.tar 00001.tar …   also validation/ and test/; not for shards that are read in place
"""

import dataclasses
import gc
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from weakref import WeakValueDictionary

from pydantic import Field

from clips_pipeline.config import (
    ConfigError,
    NonNegativeInt,
    digest_mapping,
    from_json,
    read_content,
    read_json,
    to_mapping,
)
from clips_pipeline.data.limits import SampleLimits, limits_before_they_were_recorded
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.io.digests import file_sha256

INDEX_FILE = "index.json"
CLASSES_FILE = "classes.json"

# A digest names files of the shard cache; an index that somebody else made must not name others.
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_in_use: WeakValueDictionary[bytes, "Index"] = WeakValueDictionary()
"""Indexes that somebody holds, by the SHA-256 of their files."""
_LONGEST_PATH_SHOWN = 300
_STATS_PER_TASK = 2_000


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file.

    Attributes:
        path: relative to the folder of the index, with '/'; for a shard in place, an absolute path or a URL.
        samples: number of samples that are used.
        bytes: size of the file.
        sha256: SHA-256 of the file, hexadecimal.
        keys_digest: SHA-256 of the keys in order; it compares the samples of two shards independently of their bytes.
    """

    path: str
    samples: NonNegativeInt
    bytes: NonNegativeInt
    sha256: Sha256
    keys_digest: Sha256


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Index:
    """All shards, by split.

    Attributes:
        fingerprint: digest of the parameters, the source and the format version that the shards were made with.
        splits: shards in order, by split.
        skips: number of skipped samples, by split and skip reason.
        examples: the first skipped samples, as `split reason key: detail`.
        fields: names of the caption fields in the samples.
        limits: limits on a sample, which every reader of the folder applies.
    """

    fingerprint: str
    splits: dict[str, tuple[ShardEntry, ...]]
    skips: dict[str, dict[str, int]]
    examples: tuple[str, ...] = ()
    fields: SampleFields = field(default_factory=SampleFields)
    limits: SampleLimits = field(default_factory=limits_before_they_were_recorded)

    def split(self, name: str) -> tuple[ShardEntry, ...]:
        """Return the shards of a split.

        Raises:
            ConfigError: the index has no such split.
        """
        if name not in self.splits:
            raise ConfigError(
                f"split {name!r} is not in the index; it has {', '.join(self.splits) or 'none'}{_split_remedy(name, self.splits)}"
            )
        return self.splits[name]

    def split_samples(self, name: str) -> int:
        """Return the number of samples of a split.

        Raises:
            ConfigError: the index has no such split.
        """
        return sum(shard.samples for shard in self.split(name))

    @property
    def version(self) -> str:
        """Digest of the bytes of all shards and of the samples in use; independent of the machine and of paths."""
        return self._digest(self.splits)

    def split_version(self, name: str) -> str:
        """Return `version` of one split.

        Raises:
            ConfigError: the index has no such split.
        """
        return self._digest({name: self.split(name)})

    @staticmethod
    def _digest(splits: Mapping[str, Sequence[ShardEntry]]) -> str:
        digest = hashlib.sha256()
        for name, shards in splits.items():
            for shard in shards:
                digest.update(f"{name} {shard.sha256} {shard.keys_digest}\n".encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `index.json`, one shard per line; the same index gives the same bytes."""
        head = to_mapping(dataclasses.replace(self, splits={}))
        del head["splits"]
        # Without fields that were added later and have their default: the same index gives the same bytes as before.
        head["fields"] = digest_mapping(self.fields)
        lines = {
            name: ",\n".join("   " + json.dumps(dataclasses.asdict(shard), ensure_ascii=False) for shard in shards)
            for name, shards in self.splits.items()
        }
        splits = ",\n".join(f"  {json.dumps(name)}: [\n{text}\n  ]" for name, text in lines.items())
        text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "splits": {\n' + splits + "\n }\n}\n"
        (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def _split_remedy(split: str, found: Iterable[str]) -> str:
    if split != "test" and list(found) == ["test"]:
        return (
            ". This data is for evaluation only: evaluate a model on it with `kedro run --pipelines benchmark --env NAME`, "
            "where results_root and model_root of conf/NAME/globals.yml select it (docs/how-to/evaluate.md)"
        )
    if split == "test" and "validation" in found:
        return "; set evaluate.split: validation, or give the source a test split"
    return ""


def load_index(folder: Path) -> Index:
    """Read `index.json` of a folder of shards.

    While the result is in use, reading the same content again returns the same object: with 140,000 shards, parsing it takes a
    third of a second, and a rank needs it several times.

    Raises:
        ConfigError: the file is missing or is not an index.
    """
    file, remedy = folder / INDEX_FILE, "run `kedro run --pipelines prepare` to make the shards"
    content = read_content(file, remedy)
    digest = hashlib.sha256(content).digest()
    index = _in_use.get(digest)
    if index is None:
        with _no_garbage_collection():
            _in_use[digest] = index = from_json(Index, content, file, remedy)
    return index


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch the collector off: the objects of a large index make it search all objects of the process again and again.

    With those of torch and Composer, that takes as long as parsing 140,000 shards.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def save_classes(classes: Classes, folder: Path) -> None:
    """Write `classes.json`: names in the order of the labels, and prompt templates."""
    text = json.dumps(to_mapping(classes), indent=1, ensure_ascii=False)
    (folder / CLASSES_FILE).write_text(text + "\n", encoding="utf-8")


def load_classes(folder: Path) -> Classes | None:
    """Read `classes.json`; return None if it does not exist.

    Raises:
        ConfigError: the file is damaged.
    """
    file = folder / CLASSES_FILE
    if not file.is_file():
        return None
    return read_json(Classes, file, "run `kedro run --pipelines prepare` again")


def check_shards(shards: Sequence[ShardEntry], folder: Path) -> None:
    """Refuse shards that do not match the index.

    Args:
        shards: entries of the index.
        folder: folder of the index.

    Raises:
        ConfigError: a local shard is missing or its size differs from the index.
    """
    problems = find_missing_or_changed(shards, folder)
    if problems:
        raise ConfigError(
            f"{problems[0]} ({len(problems)} such shards); run `kedro run --pipelines prepare`, or restore the data"
        )


def find_missing_or_changed(shards: Iterable[ShardEntry], folder: Path) -> list[str]:
    """Return a message for each local shard that is missing or whose size differs from the index."""
    shards = list(shards)
    parts = [shards[at : at + _STATS_PER_TASK] for at in range(0, len(shards), _STATS_PER_TASK)]
    # In parallel: each stat takes a round trip on a network file system, and there may be 100,000 shards.
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda part: [_find_problem(shard, folder) for shard in part], parts)
        return [problem for part in found for problem in part if problem is not None]


def _find_problem(shard: ShardEntry, folder: Path) -> str | None:
    """Return why the file of `shard` does not match the index, by presence and size; remote shards are not checked."""
    if is_remote(shard.path):
        return None
    # Joining an absolute path ignores the folder. `os` takes a tenth of the time of `Path`.
    file = os.path.join(folder, shard.path)
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return f"{file} is missing"
    except (OSError, ValueError) as error:  # the index of others may name a path that is too long, or has a NUL in it
        return f"{file[:_LONGEST_PATH_SHOWN]} cannot be read ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(found.st_mode):  # a FIFO would be waited for
        return f"{file} is not a regular file"
    return None if found.st_size == shard.bytes else f"{file} has {found.st_size} bytes, the index says {shard.bytes}"


def make_shard_entry(file: Path, path_in_index: str, keys: Sequence[str]) -> ShardEntry:
    """Return the index entry of the tar file at `file`, whose samples with these keys are used."""
    return ShardEntry(path_in_index, len(keys), file.stat().st_size, file_sha256(file), digest_keys(keys))


def digest_keys(keys: Iterable[str]) -> str:
    """Return the SHA-256 over keys in order."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode())
        # Keys contain no newline, so different lists give different texts.
        digest.update(b"\n")
    return digest.hexdigest()
