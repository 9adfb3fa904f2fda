"""Names of the splits, and class names of labels."""

from dataclasses import dataclass
from typing import Literal

from clips_pipeline.config import ConfigError

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
