"""What every source of samples offers to `data.prepare.run`."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Classes, Split

if TYPE_CHECKING:
    from clips_pipeline.data.sources.in_place import TarTask


class ShardTask(Protocol):
    """The samples of one piece of a split, made in one worker process. Must pickle."""

    def records(self) -> Iterator[Record | Skip]:
        """The samples in a fixed order; what cannot be used comes as a `Skip`, not as an exception."""
        ...


class Source(Protocol):
    """Samples by split. All methods are pure: the same source gives the same samples in the same order.

    Attributes:
        fields: where the captions stand in the shards of the index, and whether a sample without them is bad.
    """

    fields: SampleFields = SampleFields()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits this source has, in the order in which they are written."""
        ...

    def tasks(self, split: Split) -> "Sequence[ShardTask] | Sequence[TarTask]":
        """The pieces of `split`, in order; each is the work of one process: written into shards of its own, or read."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything the samples depend on besides code: parameters and the content of files read."""
        ...

    def notes(self) -> dict[str, int]:
        """Counts that only the source knows, such as rows of a table without a sample; asked when all tasks are done."""
        return {}

    def classes(self) -> Classes | None:
        """Classes for zero-shot evaluation, where samples carry labels."""
        return None


def hash_to_unit_interval(key: str) -> float:
    """A number from 0 to below 1 that follows from the key alone: samples that are added later move no others."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
