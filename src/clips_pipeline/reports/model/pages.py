"""The pages on a model: `evaluation.html` on one evaluation, `report.html` on a registered version, and a comparison of two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.evaluation.per_item.items import compositionality_items, items_from_rows
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.evaluation.results import EvaluationResult, ItemRow
from clips_pipeline.reports.model.figures import interval_figure, map_figure, recall_figure
from clips_pipeline.reports.model.scores import MetricScore, score_metrics, select_headlines
from clips_pipeline.reports.model.training_curves import training_charts
from clips_pipeline.reports.page import render, write_page

_HEAD = ("mean_recall@1", "accuracy@1")


@dataclass(frozen=True)
class Link:
    """Something to look further at: what it is, its address on the web or None, and what to do where there is none."""

    what: str
    address: str | None
    otherwise: str = ""

    @property
    def on_the_web(self) -> bool:
        """Only web addresses become links."""
        return self.address is not None and self.address.startswith(("http://", "https://"))


@dataclass(frozen=True)
class ModelFacts:
    """What `report.html` is made from, besides the report data.

    Attributes:
        title: name and version.
        decision: the gate's sentence.
        promoted: whether the version is the champion.
        metric: the key of the metric that decides.
        found: the metrics with their intervals.
        champion: name of the version that it is compared with; None where there is none.
        note: what else is to be said about the comparison; empty for nothing.
        history: a mapping per logged step.
        health: HTML, the summary of the data health report.
        health_links, run_links: to look further.
        steps: from the data to the version: what each is, and the digest or name by which it is known.
        command: that prints the whole lineage.
    """

    title: str
    decision: str
    promoted: bool
    metric: str
    found: Sequence[MetricScore]
    champion: str | None
    note: str
    history: Sequence[Mapping[str, Any]]
    health: str
    health_links: Sequence[Link]
    run_links: Sequence[Link]
    steps: Sequence[tuple[str, str]]
    command: str


def write_evaluation(result: EvaluationResult, path: Path) -> Path:
    """Write `evaluation.html`: what one model does on one set, without a look at training or at other models."""
    return write_page(evaluation_html(result), path)


def evaluation_html(result: EvaluationResult) -> str:
    """The whole page: `templates/evaluation.html`."""
    items = {result.set_name: items_from_rows(result.per_item)} | compositionality_items(result.compositionality)
    found = score_metrics(result.metrics, result.report_data.chance, items)
    first = next((name for end in _HEAD for name in result.metrics if name.endswith(end)), next(iter(result.metrics)))
    values = _values(found, first, None, result.report_data, result.per_item)
    return render("evaluation.html", title=f"Evaluation on {result.set_name}", **values)


def model_html(facts: ModelFacts, shown: ReportData, per_item: Sequence[ItemRow]) -> str:
    """The whole page on a registered version: `templates/model.html`."""
    values = _values(facts.found, facts.metric, facts.champion, shown, per_item)
    charts = training_charts(facts.history)
    return render("model.html", title=facts.title, facts=facts, training=charts, **values)


def _values(
    found: Sequence[MetricScore], first: str, champion: str | None, shown: ReportData, per_item: Sequence[ItemRow]
) -> dict[str, Any]:
    """What both pages show."""
    return {
        "headlines": select_headlines(found, first),
        "champion": champion,
        "found": found,
        "intervals": interval_figure(found),
        "images": len(per_item),
        "shown": shown,
        "recall": recall_figure(per_item),
        "map": None if shown.embedding_map is None else map_figure(shown.embedding_map),
    }
