"""Small samples, and sources that other processes can open too."""

import io
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.data.shards.records import Caption, Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Classes, Split
from clips_pipeline.data.shards.writer import make_sample, write_samples
from clips_pipeline.data.sources.source import ShardTask


def image_bytes(number: int, size: tuple[int, int] = (24, 20), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Return an image that is different for every number."""
    image = Image.new("RGB", size, (number % 256, number // 256, 90))
    image.putpixel((3, 4), (255, 0, number % 256))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def bomb_image(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header gives a huge size."""
    whole = image_bytes(0)
    header = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def record(
    number: int,
    key: str | None = None,
    *,
    web_caption: str | None = None,
    synthetic_caption: str | None = None,
    **changes: object,
) -> Record:
    """Return a sample; its captions are one of each kind, or those of `web_captions` and `synthetic_captions`."""
    facts: dict[str, object] = {
        "key": key or f"k{number:04d}",
        "image": image_bytes(number),
        "extension": "png",
        "web_captions": (f"web {number}" if web_caption is None else web_caption,),
        "synthetic_captions": (
            Caption(f"Long {number}. And more." if synthetic_caption is None else synthetic_caption),
        ),
    }
    return Record(**(facts | changes))  # type: ignore[arg-type]


def write_shard(file: Path, records: Iterable[Record], path_in_index: str) -> ShardEntry:
    """Write one tar file with these records."""
    return write_samples(file, map(make_sample, records), path_in_index)


@dataclass(frozen=True)
class ListTask:
    items: tuple[Record | Skip, ...]
    # File to create when the task starts, and seconds to wait then, so that a test can kill it.
    flag: str | None = None
    wait: float = 0.0

    def records(self) -> Iterator[Record | Skip]:
        for place, item in enumerate(self.items):
            if self.flag is not None and place == 1:
                Path(self.flag, str(os.getpid())).touch()
                time.sleep(self.wait)
            yield item


@dataclass
class ListSource:
    parts: dict[Split, list[list[Record | Skip]]]
    name: str = "list"
    found: Classes | None = None
    flag: str | None = None
    wait: float = 0.0
    opened: list[Split] = field(default_factory=list)
    needs_captions: bool = True
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def fields(self) -> SampleFields:
        return SampleFields(needed=self.needs_captions)

    @property
    def captioners(self) -> tuple[str, ...]:
        return ()

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self.parts)

    def tasks(self, split: Split) -> list[ShardTask]:
        self.opened.append(split)
        return [ListTask(tuple(items), self.flag, self.wait) for items in self.parts[split]]

    def notes(self) -> dict[str, int]:
        return {}

    def classes(self) -> Classes | None:
        return self.found

    def fingerprint(self) -> str:
        return self.name


def source(count: int = 10, tasks: int = 2, **changes: object) -> ListSource:
    """Return a source with `count` good samples in `train`, divided evenly, and three in `test`."""
    step = -(-count // tasks)
    train: list[list[Record | Skip]] = [
        [record(number) for number in range(at, min(at + step, count))] for at in range(0, count, step)
    ]
    test: list[list[Record | Skip]] = [
        [record(1000 + number, captions=("a", "b"), label=number) for number in range(3)]
    ]
    return ListSource({"train": train, "test": test}, **changes)  # type: ignore[arg-type]


class LengthRows(NamedTuple):
    web: list[int]
    fragment: list[int]
    target: list[int]
    more_fragments: tuple[list[int], ...] = ()


class LengthReader:
    """Replacement for a caption reader: rows of numbers derived from the captions and the epoch."""

    def read(self, web: Sequence[str], synthetic: Sequence[Caption], *, epoch: int, key: str) -> LengthRows:
        number = int(web[0].split()[-1])
        return LengthRows([number, 0], [number, epoch], [number, len(synthetic[0].text), 0])


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return all files below `folder` with their contents."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
