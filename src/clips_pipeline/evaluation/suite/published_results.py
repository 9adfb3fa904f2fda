"""Published results to show beside measured ones: a YAML file of models with their source and values.

results:
  - name: COSMOS B/16, CC3M
    source: arXiv 2412.01814
    values: {retrieval/coco/image_to_text_recall@1: 0.531}
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.evaluation.metric_keys import set_of


@dataclass(frozen=True)
class PublishedModel:
    """Published results of one model.

    Attributes:
        name: name in the table.
        source: where they are published.
        values: value by metric key, from 0 to 1.
    """

    name: str
    source: str
    values: dict[str, Annotated[float, Ge(0), Le(1)]]


@dataclass(frozen=True)
class PublishedResults:
    """Content of the file.

    Attributes:
        results: the models.
    """

    results: tuple[PublishedModel, ...] = ()


def read_published(path: str | None, sets: Collection[str]) -> tuple[PublishedModel, ...]:
    """Return the models of the file.

    Args:
        path: the file; None for none.
        sets: names of the sets of the suite.

    Raises:
        ConfigError: the file cannot be read or has another form, or a metric is of no set of the suite.
    """
    if path is None:
        return ()
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"suite.published: {path}: no such file; give a file of published results, or null") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"suite.published: {path}: not YAML ({' '.join(str(error).split())})") from None
    models = from_mapping(PublishedResults, found, f"suite.published: {path}").results
    for model in models:
        unknown = [metric for metric in model.values if set_of(metric) not in sets]
        if unknown:
            raise ConfigError(
                f"suite.published: {path}: {model.name}: {unknown[0]} is of no set of the suite; known sets: {', '.join(sets)}"
            )
    return models
