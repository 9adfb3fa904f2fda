"""What every source of samples offers to `shards.prepare`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.records import Record, Skip

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
    """Samples by split. All methods are pure: the same source gives the same samples in the same order."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits this source has, in the order in which they are written."""
        ...

    def tasks(self, split: Split) -> list[ShardTask]:
        """The pieces of `split`, in order; each is written by one process into shards of its own."""
        ...

    def classes(self) -> Classes | None:
        """Classes for zero-shot evaluation, where samples carry labels."""
        ...

    def fingerprint(self) -> str:
        """A digest of everything the samples depend on besides code: parameters and the content of files read."""
        ...
