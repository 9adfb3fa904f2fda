"""The model report `report.html`: collect its facts from pipeline outputs and MLflow, write it, and log it to the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.tracking import MlflowClient

from clips_pipeline.config import ConfigError, flatten, from_mapping, with_current_names
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.evaluation.per_item.comparison import match_items
from clips_pipeline.evaluation.per_item.item_table import items_by_set, rows_from_table
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.registry.tracking.evaluation_log import fetch_items
from clips_pipeline.registry.tracking.logged_models import MODEL_DIGEST
from clips_pipeline.registry.tracking.server import run_url, version_url, web_url
from clips_pipeline.registry.versions.champion import GATE_AGAINST, NO_CHAMPION
from clips_pipeline.registry.versions.register import Registration
from clips_pipeline.reports.model.pages import Link, ModelFacts, model_html
from clips_pipeline.reports.model.scores import score_metrics
from clips_pipeline.reports.page import summary_of, write_page


def write_model_report(
    registration: Registration,
    metric: str,
    metrics: Mapping[str, float],
    tables: Mapping[str, pd.DataFrame],
    report_data: Mapping[str, Any],
    run: Mapping[str, Any],
    history: pd.DataFrame,
    health: Path,
    shards: Path,
    file: Path,
) -> Path:
    """Write the page, and log it to the run as an artifact.

    Args:
        registration: the registered version.
        metric: key of the deciding metric.
        metrics: as in `metrics.json`.
        tables: per-item tables of `evaluate`, by set.
        report_data: report data of `evaluate`, as plain values.
        run: what `train` returns about its run.
        history: training history of `train`.
        health: the data health report.
        shards: folder of the prepared data.
        file: path of the page.

    Raises:
        ConfigError: `report_data` does not have the expected form.
    """
    client = MlflowClient()
    data = from_mapping(ReportData, with_current_names(ReportData, report_data), "report_data")
    items = items_by_set(tables)
    champion, others, note = _champion(client, registration, data.set_name, items)
    facts = ModelFacts(
        title=f"{registration.name}, version {registration.version}",
        decision=registration.reason,
        promoted=registration.promoted,
        metric=metric,
        found=score_metrics(metrics, data.chance, items, others),
        champion=champion,
        note=note,
        history=[{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        health=summary_of(health.read_text(encoding="utf-8")),
        health_links=[Link(f"full report: {health.name}", None, "beside this page, and an artifact of the run")],
        run_links=_links(client, registration),
        steps=_steps(client, registration, run, shards),
        command=f"kedro lineage show {registration.version}",
        contrastive=flatten(run.get("parameters", {})).get("train.loss.contrastive", "softmax"),
    )
    write_page(model_html(facts, data, rows_from_table(tables[data.set_name])), file)
    client.log_artifact(registration.run_id, str(file))
    return file


def _champion(
    client: MlflowClient, registration: Registration, main: str, items: Mapping[str, ItemResults]
) -> tuple[str | None, dict[str, ItemResults], str]:
    """Return the version that the gate compared with, its comparable per-item results, and a note for the page.

    The name is None where there is nothing to compare with.
    """
    tags = client.get_model_version(registration.name, str(registration.version)).tags
    against = tags.get(GATE_AGAINST, NO_CHAMPION)
    if against == NO_CHAMPION:
        return None, {}, "This version was the first champion: there was none when it was registered."
    name = f"{registration.name}, version {against}"
    run_id = client.get_model_version(registration.name, against).run_id
    comparable: dict[str, ItemResults] = {}
    notes: list[str] = []
    for set_name, own in items.items():
        where = "this set" if set_name == main else set_name
        theirs = fetch_items(client, run_id, set_name)
        if theirs is None:
            notes.append(
                f"The champion at registration, {name}, has no per-item results on {where}; evaluate it again."
            )
            continue
        try:
            match_items(theirs, own)
        except ConfigError as error:
            # Do not repeat an error that the gate's reason, at the top of the page, already reports.
            why = "" if str(error) in registration.reason else f": {error}"
            notes.append(f"Not compared with {name}{'' if set_name == main else f' on {set_name}'}{why}.")
            continue
        comparable[set_name] = theirs
    if comparable:
        notes.insert(0, f"The champion at registration was {name}; both were evaluated on the same images.")
    return name if comparable else None, comparable, " ".join(notes)


def _links(client: MlflowClient, registration: Registration) -> list[Link]:
    hint = "" if web_url(mlflow.get_tracking_uri()) else "requires a running “make mlflow-ui” on this machine"
    experiment = client.get_run(registration.run_id).info.experiment_id
    version = f"version {registration.version} in the registry"
    return [
        Link(f"MLflow run {registration.run_id}", run_url(experiment, registration.run_id), hint),
        Link(version, version_url(registration.name, registration.version), hint),
    ]


def _steps(
    client: MlflowClient, registration: Registration, run: Mapping[str, Any], shards: Path
) -> list[tuple[str, str]]:
    index = load_index(shards)
    tags = client.get_run(registration.run_id).data.tags
    version = client.get_model_version(registration.name, str(registration.version)).tags
    dirty = " with uncommitted changes, stored with the run" if tags.get("git.dirty") == "true" else ""
    samples = ", ".join(f"{index.split_samples(name):,} {name}" for name in index.splits)
    return [
        ("source, parameters and format of the data", index.fingerprint),
        (f"shards: {samples}", index.version),
        ("code of the training", tags.get("git.commit", "unknown") + dirty),
        ("run spec: every setting of the training, data and tokenizer", str(run.get("spec", "unknown"))),
        ("weights, configuration and tokenizer, SHA-256", version.get(MODEL_DIGEST, "unknown")),
        ("MLflow run", registration.run_id),
        ("registered version", registration.uri),
    ]
