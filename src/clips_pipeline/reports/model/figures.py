"""Figures of the model reports, by Matplotlib's object interface, since pyplot has global state."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from clips_pipeline.evaluation.embedding_map import EmbeddingMap, MapPoint
from clips_pipeline.evaluation.metric_keys import is_fraction
from clips_pipeline.evaluation.metrics.retrieval import chance_recall
from clips_pipeline.evaluation.per_item.comparison import CONFIDENCE
from clips_pipeline.evaluation.results import ItemRow
from clips_pipeline.reports.figure import LINE, SERIES, SOFT, label, svg
from clips_pipeline.reports.model.scores import MetricScore, interval_text, readable_name
from clips_pipeline.reports.page import format_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ON_PAPER = ("#0057b8", "#d1495b", "#00773a")
_GRAY = "#777777"

_OTHERS = "others"
_MOST_CLASSES = 7  # the last color is for all other classes
_LETTERS = 20  # of a class name
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def recall_curves(per_item: Sequence[ItemRow], figure: "Figure", *, on_paper: bool = False) -> None:
    """Draw recall@k over k, with the chance level as a dotted line in the same color.

    Args:
        per_item: one row per image.
        figure: figure to draw on.
        on_paper: use fixed colors rather than the placeholders of `reports.figure`.
    """
    image = np.array([r["image_to_text_rank"] for r in per_item if r["image_to_text_rank"] is not None], np.int64)
    texts = np.array([rank for r in per_item for rank in r["text_to_image_ranks"]], np.int64)
    classes = np.array([r["zero_shot_rank"] for r in per_item if r.get("zero_shot_rank") is not None], np.int64)
    owners = np.repeat(np.arange(len(per_item)), [len(r["text_to_image_ranks"]) for r in per_item])
    axes = figure.add_subplot()
    curves = (
        ("image to text", image, "-", len(texts)),
        ("text to image", texts, "--", len(per_item)),
        ("zero-shot classes", classes, "-.", 0),
    )
    for (name, ranks, style, candidates), color in zip(curves, _ON_PAPER if on_paper else SERIES, strict=False):
        if not len(ranks):
            continue
        places, shares = _steps(ranks, len(per_item))
        axes.plot(places, shares, color=color, linestyle=style, label=name, drawstyle="steps-post")
        if candidates:
            places_K = np.unique(np.geomspace(1, candidates, 40).round().astype(int)).tolist()
            chance = chance_recall(owners, len(per_item), places_K)
            key = name.replace(" ", "_") + "_recall"
            axes.plot(places_K, [chance[f"{key}@{k}"] for k in places_K], color=color, linestyle=":", linewidth=1)
    if len(texts):
        axes.plot([], [], color=_GRAY if on_paper else SOFT, linestyle=":", linewidth=1, label="chance (same color)")
    axes.set(xscale="log", xlabel="k", ylabel="recall@k", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if axes.lines:
        axes.legend()


def recall_figure(per_item: Sequence[ItemRow]) -> Markup | None:
    """Draw the recall curves for a page; None without ranks."""
    if not any(r["text_to_image_ranks"] or r.get("zero_shot_rank") is not None for r in per_item):
        return None
    return svg(
        lambda figure: recall_curves(per_item, figure),
        "Recall@k over k; the table has the values at 1, 5 and 10",
        size=(5.2, 2.7),
    )


def rank_figure(per_item: Sequence[ItemRow]) -> bytes:
    """Draw the recall curves as PNG, for MLflow and Kedro-Viz."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    recall_curves(per_item, figure, on_paper=True)
    stream = io.BytesIO()
    # Without the Matplotlib version in the metadata, the same result gives the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def interval_figure(found: Sequence[MetricScore]) -> Markup | None:
    """Draw metrics in [0, 1] with confidence intervals, champion and chance level; None without such metrics."""
    shares = [one for one in found if is_fraction(one.metric) and one.interval is not None]
    if not shares:
        return None

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for place, one in enumerate(reversed(shares)):
            axes.plot(one.interval or (), [place, place], color=SERIES[0], linewidth=2.5, solid_capstyle="butt")
            axes.plot(one.value, place, "o", color=SERIES[0], label="this model")
            if one.difference is not None and one.champion_interval is not None:
                under = place - 0.28
                axes.plot(one.champion_interval, [under, under], color=SERIES[1], linewidth=1.2)
                axes.plot(one.difference.a, under, "D", color=SERIES[1], markersize=4, label="champion")
            if one.chance is not None:
                axes.plot(one.chance, place, "|", color=SOFT, markersize=11, label="chance", zorder=1)
        axes.set_yticks(range(len(shares)), [label(readable_name(one.metric)) for one in reversed(shares)])
        axes.set_xlim(left=0)
        axes.set_ylim(-0.7, len(shares) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(LINE)
        # One legend entry per name; not every metric has a champion's value.
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        order = [name for name in ("this model", "champion", "chance") if name in named]
        figure.legend([named[name] for name in order], order, loc="outside upper left", ncols=3)

    summary = "; ".join(f"{readable_name(one.metric)} {one.value:.3f}, {interval_text(one.interval)}" for one in shares)
    return svg(draw, f"Metrics with {CONFIDENCE:.0%} intervals: {summary}", size=(5.2, 0.6 + 0.26 * len(shares)))


def map_figure(shown: EmbeddingMap) -> Markup:
    """Draw the embedding map: images filled, their first captions hollow, joined by lines, colored by class."""
    named = Counter(point.name for point in shown.points if point.name is not None)
    classes = [name for name, _ in named.most_common(_MOST_CLASSES)]
    groups: dict[str, list[MapPoint]] = {name: [] for name in [*classes, _OTHERS]}
    for point in shown.points:
        groups[point.name if point.name in classes else _OTHERS].append(point)
    pairs = [(point.image, point.text) for point in shown.points if point.text is not None]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for image, text in pairs:
            axes.plot(*zip(image, text, strict=True), color=LINE, linewidth=0.4, zorder=1)
        for place, (name, points) in enumerate(groups.items()):
            if not points:
                continue
            between = classes and name == _OTHERS
            color, mark = (SOFT, ".") if between else (SERIES[place], _MARKS[place])
            known = label(name, _LETTERS) if classes else "images"
            filled: dict[str, Any] = {"color": color, "linewidths": 0, "label": known, "zorder": 3}
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": color, "linewidths": 0.8, "zorder": 2}
            captions = [point.text for point in points if point.text is not None]
            for places, look in (([point.image for point in points], filled), (captions, hollow)):
                if places:
                    across, up = zip(*places, strict=True)
                    axes.scatter(across, up, 16, marker=mark, **look)
        axes.set(xticklabels=[], yticklabels=[])
        axes.tick_params(length=0)
        axes.set_xlabel(f"first component, {format_percent(shown.explained[0], 1)} of the variance")
        axes.set_ylabel(f"second component, {format_percent(shown.explained[1], 1)}")
        longest = max(len(label(name, _LETTERS)) for name in groups)
        figure.legend(loc="outside lower left", ncols=4 if longest <= 9 else 3 if longest <= 13 else 2)

    of = f"Map of {len(shown.points)} of {shown.images} images{' and their captions' if pairs else ''}, by class"
    return svg(draw, of, size=(5.2, 4.7))


def _steps(ranks: npt.NDArray[np.int64], least: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return values of k, at most 200 up to at least `least`, and the fraction of ranks below each."""
    places = np.unique(np.geomspace(1, max(least, 2, int(ranks.max()) + 1), 200).round())
    ordered = np.sort(ranks)
    return places, np.searchsorted(ordered, places, side="left") / len(ranks)
