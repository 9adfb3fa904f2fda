"""Two models by their names in MLflow, or by files, to a comparison item by item."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.comparison import CONFIDENCE, OTHER_TERMS, RESAMPLES, Difference, compare
from clips_pipeline.evaluation.item_table import read_items
from clips_pipeline.evaluation.items import Items
from clips_pipeline.evaluation.metric_keys import COMPOSITIONALITY_SETS, whole_key
from clips_pipeline.registry.evaluation_log import fetch_items, sets_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """One side of a comparison.

    Attributes:
        name: as the user wrote it.
        file: per-item results; None where they are in MLflow.
        run_id: of the model; None for a file.
    """

    name: str
    file: Path | None = None
    run_id: str | None = None


def resolve(client: MlflowClient, name: str) -> Reference:
    """What a name means: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `runs:/ID`, or a CSV file of per-item results.

    Raises:
        ConfigError: there is no such model, run or file.
    """
    try:
        if name.startswith("runs:/"):
            return Reference(name, run_id=client.get_run(name.removeprefix("runs:/").strip("/")).info.run_id)
        if name.startswith("models:/"):
            model, at, alias = name.removeprefix("models:/").partition("@")
            if at:
                return Reference(name, run_id=client.get_model_version_by_alias(model, alias).run_id)
            model, _, version = model.rpartition("/")
            return Reference(name, run_id=client.get_model_version(model, version).run_id)
    except MlflowException as error:
        raise ConfigError(f"{name}: {error.message}") from None
    if not Path(name).is_file():
        raise ConfigError(
            f"{name}: no file, and no name in MLflow; give models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or the "
            "retrieval_per_item.csv that `evaluate` writes"
        )
    return Reference(name, file=Path(name))


def common_set(client: MlflowClient, references: Sequence[Reference], wanted: str | None) -> str:
    """The set that all were evaluated on; sugarcrepe and winoground only where they are named, or where nothing else is there.

    Raises:
        ConfigError: none, several and none was named, or not the one that was named.
    """
    known = [
        {PurePosixPath(path).stem for path in sets_of(client, one.run_id)}
        for one in references
        if one.run_id is not None
    ]
    if not known:
        return wanted or "set"
    common = set.intersection(*known)
    if wanted is not None and wanted in common:
        return wanted
    if wanted is None:
        for sets in (common - set(COMPOSITIONALITY_SETS), common):
            if len(sets) == 1:
                return sets.pop()
    each = "; ".join(
        f"{one.name}: {', '.join(sorted(sets)) or 'none'}" for one, sets in zip(references, known, strict=False)
    )
    remedy = "name one with --set" if wanted is None and common else "evaluate both on the same set"
    raise ConfigError(f"per-item results in MLflow: {each}; {remedy}")


def items_of_reference(client: MlflowClient, reference: Reference, set_name: str) -> Items:
    """The results of one side.

    Raises:
        ConfigError: there are none.
    """
    if reference.file is not None:
        return read_items(reference.file, set_name)
    found = None if reference.run_id is None else fetch_items(client, reference.run_id, set_name)
    if found is None:
        raise ConfigError(f"{reference.name}: no per-item results on {set_name!r} in MLflow; evaluate it again")
    return found


def compare_references(
    first: str,
    second: str,
    set_name: str | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[list[Difference], int]:
    """Compare the second with the first on every metric that both allow.

    Returns:
        one difference per metric, and the number of items: images, or pairs of Winoground.

    Raises:
        ConfigError: a side is not known, or the two cannot be paired.
    """
    client = MlflowClient()
    references = [resolve(client, name) for name in (first, second)]
    found_set = common_set(client, references, set_name)
    a, b = (items_of_reference(client, one, found_set) for one in references)
    names = [name for name in a.names() if name in b.names()]
    if not names:
        raise ConfigError(
            f"{first} and {second} have no metric in common; where they hold results on several sets, name one with --set"
        )
    metrics = [whole_key(name, found_set) for name in names]
    if others := [metric for metric in metrics if not a.on_terms_of(b, metric)]:
        log.warning("left out: %s, since %s", ", ".join(others), OTHER_TERMS)
        metrics = [metric for metric in metrics if metric not in others]
    if not metrics:
        raise ConfigError(f"{first} and {second}: {OTHER_TERMS}")
    return compare(a, b, metrics, confidence=confidence, resamples=resamples), len(a.keys)
