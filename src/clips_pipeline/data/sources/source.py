"""Interface of the sources, and the stable hash split."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Classes, Split

if TYPE_CHECKING:
    from clips_pipeline.data.sources.in_place import TarTask


class ShardTask(Protocol):
    """The samples of one part of a split, read by one worker process. Must be picklable."""

    def records(self) -> Iterator[Record | Skip]:
        """Yield the samples in a fixed order.

        A sample that cannot be used gives a `Skip` and not an exception, whatever it raises (`shards.unexpected`): an
        exception would end the generator and with it the run.
        """
        ...


class Source(Protocol):
    """Samples by split. All methods are pure: the same source gives the same samples in the same order.

    Attributes:
        fields: names of the caption fields in the shards of the index, and whether captions are required.
        limits: limits on a sample, recorded in the index.
    """

    fields: SampleFields = SampleFields()
    limits: SampleLimits = DEFAULT_LIMITS

    @property
    def captioners(self) -> tuple[str, ...]:
        """Captioners that the configuration names, each of which must have written a caption; empty if it names none."""
        return self.fields.captioners

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits of this source, in the order in which they are written."""
        ...

    def tasks(self, split: Split) -> "Sequence[ShardTask] | Sequence[TarTask]":
        """Return the parts of `split`, in order; each is written into shards of its own, or read in place."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of the parameters and input files that determine the samples; the code does not count."""
        ...

    def notes(self) -> dict[str, int]:
        """Return counts that only the source knows, such as unmatched table rows; called after all tasks are done."""
        return {}

    def explain_no_row(self) -> str | None:
        """Return what to do if no sample has a row in the tables of a source that joins; None for other sources."""
        return None

    def classes(self) -> Classes | None:
        """Return the classes for zero-shot evaluation if samples have labels."""
        return None


def hash_to_unit_interval(key: str) -> float:
    """Hash a key to a number in [0, 1), for a stable split: adding samples moves no others."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
