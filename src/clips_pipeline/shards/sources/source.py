"""What every source of samples offers to `shards.prepare`."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.records import Record, SampleFields, Skip

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


@runtime_checkable
class InPlaceTask(Protocol):
    """A tar file that is read as it is: the index names it, and nothing is written. Must pickle."""

    @property
    def address(self) -> str:
        """Absolute path or URL."""
        ...

    @property
    def fields(self) -> SampleFields:
        """Where the captions stand in it."""
        ...

    def local(self) -> AbstractContextManager[Path]:
        """The file, while its samples are read: itself, or a copy that is deleted afterwards.

        Raises:
            StorageError: it cannot be reached, which ends the run.
            BadSampleError: it cannot be reached, and is to be left out and counted.
        """
        ...

    def rows(self, file: Path) -> Iterator[Record | Skip]:
        """Exactly one item for every row of the tar file (`shards.tar.TarFile`), in order."""
        ...


class Source(Protocol):
    """Samples by split. All methods are pure: the same source gives the same samples in the same order."""

    @property
    def needs_captions(self) -> bool:
        """Whether a sample without web and synthetic caption is bad; false for sets that only serve evaluation."""
        ...

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits this source has, in the order in which they are written."""
        ...

    def tasks(self, split: Split) -> Sequence[ShardTask] | Sequence[InPlaceTask]:
        """The pieces of `split`, in order; each is the work of one process: written into shards of its own, or read."""
        ...

    def notes(self) -> dict[str, int]:
        """Counts that only the source knows, such as rows of a table without a sample; asked when all tasks are done."""
        ...

    def classes(self) -> Classes | None:
        """Classes for zero-shot evaluation, where samples carry labels."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything the samples depend on besides code: parameters and the content of files read."""
        ...
