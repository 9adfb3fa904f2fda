"""What every source of samples offers to `data.prepare.run`."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.records import Record, SampleFields, Skip

if TYPE_CHECKING:
    from clips_pipeline.data.sources.in_place import TarTask

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names and prompt templates for zero-shot classification.

    Attributes:
        names: class names, in the order of the labels.
        templates: prompts with `{}` where the name goes.

    Raises:
        ConfigError: no name, no template, or a template without `{}`.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or not self.templates:
            raise ConfigError("classes: give at least one name and one template")
        for template in self.templates:
            if "{}" not in template:
                raise ConfigError(f"classes.templates: {template!r} has no {{}} for the class name; add it")


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


def hash_share(key: str) -> float:
    """A number from 0 to below 1 that follows from the key alone: samples that are added later move no others."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
