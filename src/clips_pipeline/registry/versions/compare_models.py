"""Comparison of two models, named in MLflow or by files, item by item."""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.metric_keys import COMPOSITIONALITY_SETS, full_key
from clips_pipeline.evaluation.per_item.comparison import CONFIDENCE, INCOMPARABLE, RESAMPLES, Difference, compare
from clips_pipeline.evaluation.per_item.item_table import read_items
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.registry.tracking.evaluation_log import fetch_items, list_item_files

log = logging.getLogger(__name__)


def resolve(client: MlflowClient, name: str) -> str | Path:
    """Return the run of `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/ID`, or the path of a per-item file.

    Raises:
        ConfigError: there is no such model, run or file.
    """
    try:
        if name.startswith("runs:/"):
            return str(client.get_run(name.removeprefix("runs:/").strip("/")).info.run_id)
        if name.startswith("models:/"):
            model, at, alias = name.removeprefix("models:/").partition("@")
            if at:
                return str(client.get_model_version_by_alias(model, alias).run_id)
            model, _, version = model.rpartition("/")
            return str(client.get_model_version(model, version).run_id)
    except MlflowException as error:
        raise ConfigError(f"{name}: {error.message}") from None
    if not Path(name).is_file():
        raise ConfigError(
            f"{name}: neither a file nor a name in MLflow; give models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID, or the "
            "retrieval_per_item.csv that `evaluate` writes"
        )
    return Path(name)


def common_set(client: MlflowClient, runs: Mapping[str, str], wanted: str | None) -> str:
    """Return the evaluation set that all sides have results on.

    SugarCrepe and Winoground are chosen only where they are named, or where there is no other set.

    Args:
        client: client of the tracking server.
        runs: the runs of the sides that are in MLflow, by name.
        wanted: the set named by the user.

    Raises:
        ConfigError: no common set, several of which none was named, or results missing on the named set.
    """
    known = {name: {PurePosixPath(path).stem for path in list_item_files(client, run)} for name, run in runs.items()}
    if not known:
        return wanted or "set"
    common = set.intersection(*known.values())
    if wanted is not None and wanted in common:
        return wanted
    if wanted is None:
        for sets in (common - set(COMPOSITIONALITY_SETS), common):
            if len(sets) == 1:
                return sets.pop()
    each = "; ".join(f"{name}: {', '.join(sorted(sets)) or 'none'}" for name, sets in known.items())
    remedy = (
        "name one with --set"
        if wanted is None and common
        else "evaluate both on the same set, or compare the trainings with --runs"
    )
    raise ConfigError(f"per-item results in MLflow: {each}; {remedy}")


def compare_references(
    first: str,
    second: str,
    set_name: str | None = None,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[list[Difference], int]:
    """Compare the second model with the first on every metric that both have.

    Returns:
        one difference per metric, and the number of items: images, or pairs of Winoground.

    Raises:
        ConfigError: a side is unknown, or the two cannot be paired.
    """
    client = MlflowClient()
    sources = {name: resolve(client, name) for name in (first, second)}
    chosen_set = common_set(client, {name: run for name, run in sources.items() if isinstance(run, str)}, set_name)
    found: list[ItemResults] = []
    for name in (first, second):
        source = sources[name]
        items = read_items(source, chosen_set) if isinstance(source, Path) else fetch_items(client, source, chosen_set)
        if items is None:
            raise ConfigError(f"{name}: no per-item results on {chosen_set!r} in MLflow; evaluate it again")
        found.append(items)
    a, b = found
    names = [name for name in a.names() if name in b.names()]
    if not names:
        raise ConfigError(
            f"{first} and {second} have no metric in common; if they have results on several sets, name one with --set"
        )
    metrics = [full_key(name, chosen_set) for name in names]
    if others := [metric for metric in metrics if not a.is_comparable(b, metric)]:
        log.warning("left out of the comparison: %s, because %s", ", ".join(others), INCOMPARABLE)
        metrics = [metric for metric in metrics if metric not in others]
    if not metrics:
        raise ConfigError(f"{first} and {second}: {INCOMPARABLE}")
    return compare(a, b, metrics, confidence=confidence, resamples=resamples), len(a.keys)
