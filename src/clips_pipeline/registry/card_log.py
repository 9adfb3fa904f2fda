"""The facts of a model card, gathered from what the pipelines have made, and the card put with its version."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.tracking import MlflowClient

from clips_pipeline.evaluation.item_table import items_by_set
from clips_pipeline.registry.model_card import CardFacts, SplitFacts, card
from clips_pipeline.registry.register import Registration
from clips_pipeline.shards.index import load_index
from clips_pipeline.shards.statistics import added, load_statistics


def write_card(
    registration: Registration,
    metrics: Mapping[str, float],
    items: Mapping[str, pd.DataFrame],
    parameters: Mapping[str, Any],
    shards: Path,
    history: pd.DataFrame,
    file: Path,
) -> Path:
    """Write the card, make it an artifact of the run, and the description of the version.

    Args:
        registration: of the version.
        metrics: as in `metrics.json`.
        items: the tables that `evaluate` writes, by set.
        parameters: of the training, nested.
        shards: folder of the prepared data.
        history: the table that `train` writes.
        file: for the card.
    """
    client = MlflowClient()
    index, counts = load_index(shards), load_statistics(shards).splits
    facts = CardFacts(
        registration.name,
        registration.version,
        registration.run_id,
        registration.reason,
        metrics,
        items_by_set(items),
        parameters,
        index.version,
        [
            SplitFacts(name, index.split_samples(name), added(counts[name].skipped, counts[name].filtered))
            for name in index.splits
        ],
        [{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        client.get_run(registration.run_id).data.tags.get("git.commit"),
    )
    text = card(facts)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    client.log_artifact(registration.run_id, str(file))
    client.update_model_version(registration.name, str(registration.version), text)
    return file
