"""The model card: a Markdown description of a version, from the template `model_card.md`."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from mlflow.tracking import MlflowClient

from clips_pipeline.config import flatten
from clips_pipeline.data.prepare.statistics import add_counts, load_statistics
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.evaluation.metric_keys import higher_is_better
from clips_pipeline.evaluation.per_item.comparison import intervals
from clips_pipeline.evaluation.per_item.item_table import items_by_set
from clips_pipeline.evaluation.per_item.items import ItemResults
from clips_pipeline.io.redact import redact
from clips_pipeline.io.terminal import duration_text
from clips_pipeline.registry.tracking.code_changes import CodeChange, code_changes
from clips_pipeline.registry.versions.register import Registration

_SHOWN_PARAMETERS = ("method", "model.", "captions.", "loss.", "optimizer.", "samples", "batch_size", "seed", "ema")
_RESAMPLES = 2_000


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split: samples used, and samples left out by reason (skipped or filtered)."""

    samples: int
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class CardFacts:
    """Facts of a model card.

    Attributes:
        name, version: the registered version.
        run_id: id of the MLflow run.
        decision: the gate's reason.
        metrics: flat metrics.
        items: per-item results by set, for confidence intervals.
        parameters: nested parameters of the training.
        data_version: digest of the shards.
        splits: counts by split.
        history: one mapping per logged step, as in `training_history.csv`.
        git_commit: commit of the code; None where it is unknown.
        code_changes: changes of the code while the training was interrupted.
    """

    name: str
    version: int
    run_id: str
    decision: str
    metrics: Mapping[str, float]
    items: Mapping[str, ItemResults]
    parameters: Mapping[str, Any]
    data_version: str
    splits: Mapping[str, SplitFacts]
    history: Sequence[Mapping[str, Any]]
    git_commit: str | None
    code_changes: Sequence[CodeChange] = ()


def render_card(facts: CardFacts) -> str:
    """Return the model card."""
    environment = Environment(  # noqa: S701  # Markdown: foreign text goes through `plain`
        loader=PackageLoader("clips_pipeline.registry"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": _plain, "duration": duration_text}
    rates = [float(row["samples_per_s"]) for row in facts.history if _is_number(row.get("samples_per_s"))]
    return environment.get_template("model_card.md").render(
        facts=facts,
        intervals=intervals(facts.items, facts.metrics, resamples=_RESAMPLES),
        parameters={
            name: value
            for name, value in flatten(dict(facts.parameters)).items()
            if name.removeprefix("train.").startswith(_SHOWN_PARAMETERS)
        },
        rate=statistics.median(rates) if rates else None,
        seen=max((int(row["samples"]) for row in facts.history if _is_number(row.get("samples"))), default=0),
        sets=sorted({name.split("/")[1] for name in facts.metrics if name.count("/") == 2}),
        zero_shot=any(name.startswith("zero_shot/") and higher_is_better(name) for name in facts.metrics),
    )


def write_card(
    registration: Registration,
    metrics: Mapping[str, float],
    items: Mapping[str, pd.DataFrame],
    parameters: Mapping[str, Any],
    shards: Path,
    history: pd.DataFrame,
    file: Path,
) -> Path:
    """Write the card, and store it as an artifact of the run and as the version's description.

    Args:
        registration: the registered version.
        metrics: as in `metrics.json`.
        items: per-item tables of `evaluate`, by set.
        parameters: nested parameters of the training.
        shards: folder of the prepared data.
        history: training history of `train`.
        file: path of the card.
    """
    client = MlflowClient()
    index, counts = load_index(shards), load_statistics(shards).splits
    splits = {
        name: SplitFacts(index.split_samples(name), add_counts(counts[name].skipped, counts[name].filtered))
        for name in index.splits
    }
    facts = CardFacts(
        name=registration.name,
        version=registration.version,
        run_id=registration.run_id,
        decision=registration.reason,
        metrics=metrics,
        items=items_by_set(items),
        parameters=parameters,
        data_version=index.version,
        splits=splits,
        history=[{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        git_commit=client.get_run(registration.run_id).data.tags.get("git.commit"),
        code_changes=code_changes(client, registration.run_id),
    )
    text = redact(render_card(facts))
    file.write_text(text, encoding="utf-8")
    client.log_artifact(registration.run_id, str(file))
    client.update_model_version(registration.name, str(registration.version), text)
    return file


def load_card(uri: str) -> str | None:
    """Return the card of a registered version, or None: a run has none, and a version of another program may have none.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/ID/PATH`.
    """
    scheme, _, rest = uri.partition(":/")
    if scheme != "models":
        return None
    client = MlflowClient()
    name, _, alias = rest.partition("@")
    if alias:
        return client.get_model_version_by_alias(name, alias).description or None
    name, _, version = rest.rpartition("/")
    return client.get_model_version(name, version).description or None


def _plain(value: object) -> str:
    """Return text with the special characters of Markdown and HTML escaped."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#!" else letter for letter in " ".join(str(value).split()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value
