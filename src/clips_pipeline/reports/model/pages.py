"""Model reports: `evaluation.html` of an evaluation and `report.html` of a registered version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.evaluation.per_item.items import compositionality_items, items_from_rows
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.evaluation.results import EvaluationResult, ItemRow
from clips_pipeline.reports.model.figures import interval_figure, map_figure, recall_figure
from clips_pipeline.reports.model.scores import MetricScore, score_metrics, select_headlines, subset_scores
from clips_pipeline.reports.model.training_curves import training_charts
from clips_pipeline.reports.page import render, write_page

_HEAD = ("mean_recall@1", "accuracy@1")


@dataclass(frozen=True)
class Link:
    """A link: its text, its URL or None, and a note on where to find the target without a URL."""

    what: str
    address: str | None
    otherwise: str = ""

    @property
    def on_the_web(self) -> bool:
        """Whether the address is a web address; others are not rendered as links."""
        return self.address is not None and self.address.startswith(("http://", "https://"))


@dataclass(frozen=True)
class ModelFacts:
    """Content of `report.html` besides the report data.

    Attributes:
        title: name and version.
        decision: decision of the gate, one sentence.
        promoted: whether the version became champion.
        metric: key of the deciding metric.
        found: metrics with confidence intervals.
        champion: name of the version that it is compared with; None without a comparison.
        note: note on the comparison; may be empty.
        history: one mapping per logged step.
        health: summary of the data health report, as HTML.
        health_links, run_links: links to more details.
        steps: lineage from the data to the version: description, and digest or name, of each step.
        command: command that prints the whole lineage.
        contrastive: `train.loss.contrastive`.
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
    contrastive: str = "softmax"


def write_evaluation(result: EvaluationResult, path: Path) -> Path:
    """Write `evaluation.html`, the report of one model on one set."""
    return write_page(evaluation_html(result), path)


def evaluation_html(result: EvaluationResult) -> str:
    """Render `templates/evaluation.html`."""
    items = {result.set_name: items_from_rows(result.per_item)} | compositionality_items(result.compositionality)
    found = score_metrics(result.metrics, result.report_data.chance, items)
    first = next((name for end in _HEAD for name in result.metrics if name.endswith(end)), next(iter(result.metrics)))
    values = _values(found, first, None, result.report_data, result.per_item)
    return render("evaluation.html", title=f"Evaluation on {result.set_name}", **values)


def model_html(facts: ModelFacts, shown: ReportData, per_item: Sequence[ItemRow]) -> str:
    """Render the report of a registered version, `templates/model.html`."""
    values = _values(facts.found, facts.metric, facts.champion, shown, per_item)
    charts = training_charts(facts.history, facts.contrastive)
    return render("model.html", title=facts.title, facts=facts, training=charts, **values)


def _values(
    found: Sequence[MetricScore], first: str, champion: str | None, shown: ReportData, per_item: Sequence[ItemRow]
) -> dict[str, Any]:
    """Return the template variables that both pages use."""
    return {
        "headlines": select_headlines(found, first),
        "champion": champion,
        "found": found,
        "intervals": interval_figure(found),
        "images": len(per_item),
        "shown": shown,
        "recall": recall_figure(per_item),
        "subsets": subset_scores(found, per_item),
        "map": None if shown.embedding_map is None else map_figure(shown.embedding_map),
    }
