"""The pages on a model: `evaluation.html` on one evaluation, and `report.html` on a registered version; and a figure as PNG.

Each is one file that needs nothing else. What they share is made by the same sections.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.evaluation.exhibits import Exhibits
from clips_pipeline.evaluation.items import compositionality_items, items_of
from clips_pipeline.evaluation.results import EvaluationResult, ItemRow
from clips_pipeline.evaluation.sections.captions import captions
from clips_pipeline.evaluation.sections.embedding import embedding
from clips_pipeline.evaluation.sections.headline import Standing, all_metrics, headline, standings
from clips_pipeline.evaluation.sections.provenance import Link, Step, data_health, lineage
from clips_pipeline.evaluation.sections.retrieval import recall_curves, recall_figure, retrieval
from clips_pipeline.evaluation.sections.training import training
from clips_pipeline.evaluation.sections.zero_shot import zero_shot
from clips_pipeline.reports.page import bdi, contents, number, page, text, write_page

_HEAD = ("mean_recall@1", "accuracy@1")


@dataclass(frozen=True)
class ModelFacts:
    """What `report.html` is made from, besides exhibits.

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
        steps: from the data to the version.
        command: that prints the whole lineage.
    """

    title: str
    decision: str
    promoted: bool
    metric: str
    found: Sequence[Standing]
    champion: str | None
    note: str
    history: Sequence[Mapping[str, Any]]
    health: str
    health_links: Sequence[Link]
    run_links: Sequence[Link]
    steps: Sequence[Step]
    command: str


def write_evaluation(result: EvaluationResult, path: Path) -> Path:
    """Write `evaluation.html`: what one model does on one set, without a look at training or at other models."""
    return write_page(evaluation_html(result), path)


def evaluation_html(result: EvaluationResult) -> str:
    """The whole page. All text from data is escaped: captions and keys are foreign text."""
    items = {result.set_name: items_of(result.per_item)} | compositionality_items(result.compositionality)
    found = standings(result.metrics, result.exhibits.chance, items)
    first = next((name for end in _HEAD for name in result.metrics if name.endswith(end)), next(iter(result.metrics)))
    summary = f"<p>{number(len(result.per_item))} images.</p>" + headline(found, first)
    sections = {"All metrics": all_metrics(found, None), **_shown(result.exhibits, result.per_item)}
    return page(f"Evaluation on {result.set_name}", summary, contents(sections))


def model_html(facts: ModelFacts, shown: Exhibits, per_item: Sequence[ItemRow]) -> str:
    """The whole page on a registered version."""
    said = facts.decision[:1].upper() + facts.decision[1:]
    standing = "It is the champion." if facts.promoted else "It is not the champion."
    summary = (
        f'<p class="decision {"better" if facts.promoted else ""}"><strong>{standing}</strong> {bdi(said)}.</p>'
        + headline(facts.found, facts.metric, facts.note)
        + f'<p class="soft">Measured on {number(len(per_item))} images of <code>{text(shown.set_name)}</code>.</p>'
    )
    sections = {
        "All metrics": all_metrics(facts.found, facts.champion),
        "Training": training(facts.history),
        **_shown(shown, per_item),
        "Data health": data_health(facts.health, facts.health_links),
        "Lineage": lineage(facts.steps, facts.run_links, facts.command),
    }
    return page(facts.title, summary, contents(sections))


def rank_figure(per_item: Sequence[ItemRow]) -> bytes:
    """PNG of how often the right answer is among the first K, for whoever shows pictures and no pages."""
    # The object interface and not pyplot: no global state, no display, and nothing imported before a report is wanted.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    recall_curves(per_item, figure, on_paper=True)
    stream = io.BytesIO()
    # Without the software's version in it, the same result gives the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _shown(shown: Exhibits, per_item: Sequence[ItemRow]) -> dict[str, str]:
    """The sections on one evaluation; what the set does not allow to show is left out."""
    sections = {}
    figure = recall_figure(per_item)
    if figure or shown.even_images or shown.even_captions:
        examples = retrieval(shown) if shown.even_images or shown.even_captions else ""
        sections["Retrieval"] = figure + examples
    if shown.captioned:
        sections["Captions"] = captions(shown.captioned)
    if shown.embedding_map is not None:
        sections["Embedding map"] = embedding(shown.embedding_map)
    if shown.confusion is not None:
        sections["Zero-shot classes"] = zero_shot(shown.confusion)
    return sections
