"""What stands in the shards: `index.json` beside the folders of the splits.

shards/index.json
shards/classes.json                  where samples carry labels
shards/train/00000.tar 00001.tar …   likewise validation/, test/
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.shards.sources.source import Classes
from clips_pipeline.shards.sources.source import Split as Split

INDEX_FILE = "index.json"
CLASSES_FILE = "classes.json"


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One tar file.

    Attributes:
        path: relative to the folder of the index, with '/'.
        samples: number of complete samples.
        bytes: size of the file.
        sha256: of the file, hexadecimal.
        keys_digest: sha256 of the keys in order, so that two shards can be compared without their bytes.
    """

    path: str
    samples: int
    bytes: int
    sha256: str
    keys_digest: str


@dataclass(frozen=True, slots=True)
class Index:
    """All shards, by split.

    Attributes:
        fingerprint: digest of parameters, source and code that made the shards.
        splits: shards in order, by name of the split.
        skips: number of samples left out, by split and reason.
        examples: the first few samples left out, as `split reason key: detail`.
    """

    fingerprint: str
    splits: dict[str, tuple[ShardEntry, ...]]
    skips: dict[str, dict[str, int]]
    examples: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[ShardEntry, ...]:
        """The shards of a split.

        Raises:
            ConfigError: there is no such split.
        """
        if name not in self.splits:
            raise ConfigError(f"split {name!r} is not in the index; it has {', '.join(self.splits) or 'none'}")
        return self.splits[name]

    def split_samples(self, name: str) -> int:
        """Number of samples of a split.

        Raises:
            ConfigError: there is no such split.
        """
        return sum(shard.samples for shard in self.split(name))

    def skip_share(self) -> float:
        """Samples left out, as a share of all samples that the source offered."""
        skipped = sum(count for reasons in self.skips.values() for count in reasons.values())
        kept = sum(shard.samples for shards in self.splits.values() for shard in shards)
        return skipped / max(skipped + kept, 1)

    def save(self, folder: Path) -> None:
        """Write `index.json`; the same index gives the same bytes."""
        _write_json(folder / INDEX_FILE, to_mapping(self))


def load_index(folder: Path) -> Index:
    """Read `index.json` of a folder of shards.

    Raises:
        ConfigError: the file is missing or is no index.
    """
    file = folder / INDEX_FILE
    return from_mapping(Index, _read_json(file, "run `kedro run --pipelines prepare` to make the shards"), str(file))


def save_classes(classes: Classes, folder: Path) -> None:
    """Write `classes.json`: names in the order of the labels, and prompt templates."""
    _write_json(folder / CLASSES_FILE, to_mapping(classes))


def load_classes(folder: Path) -> Classes | None:
    """Read `classes.json`; None where there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    file = folder / CLASSES_FILE
    if not file.is_file():
        return None
    return from_mapping(Classes, _read_json(file, "run `kedro run --pipelines prepare` again"), str(file))


def missing_or_changed(index: Index, folder: Path) -> list[str]:
    """Shards of the index that are not there or have another size, as lines for a message."""
    problems = []
    for shards in index.splits.values():
        for shard in shards:
            problem = shard_problem(shard, folder)
            if problem is not None:
                problems.append(problem)
    return problems


def shard_problem(shard: ShardEntry, folder: Path) -> str | None:
    """Why the file of `shard` is not the one in the index, judged by presence and size."""
    file = folder / shard.path
    if not file.is_file():
        return f"{file} is missing"
    size = file.stat().st_size
    return None if size == shard.bytes else f"{file} has {size} bytes, the index says {shard.bytes}"


def digest_keys(keys: Iterable[str]) -> str:
    """sha256 over keys in order."""
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode())
        # No key holds a newline, so two different lists never give the same text.
        digest.update(b"\n")
    return digest.hexdigest()


def _write_json(file: Path, mapping: dict[str, Any]) -> None:
    file.write_text(json.dumps(mapping, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(file: Path, remedy: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; {remedy}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); {remedy}") from None
