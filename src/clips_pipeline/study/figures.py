"""Figures of a study: metric against caption length, and metric by method."""

import math
import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clips_pipeline.study.table import aggregate_seeds

_SIZE = (7.5, 4.2)
_ZERO_SHOT = re.compile(r"zero_shot/.+/accuracy@1")


def length_curves(lines: pd.DataFrame, runs: pd.DataFrame, metric: str) -> Figure:
    """Plot the change of a metric, in points, against the fraction of the caption that is read, with a dot per seed.

    A second panel shows zero-shot accuracy, where it was measured and is not the metric itself.
    """
    zero_shot = [
        name for name in runs.columns if _ZERO_SHOT.fullmatch(name) and name != metric and runs[name].notna().any()
    ]
    panels = [(metric, lines), *((name, aggregate_seeds(runs, name)) for name in zero_shot[:1])]
    figure = Figure(figsize=(_SIZE[0] * (1.0 if len(panels) == 1 else 1.6), _SIZE[1]), layout="constrained")
    for axes, (shown, means) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_length_curves(axes, means, runs, shown)
    return figure


def _draw_length_curves(axes: Axes, lines: pd.DataFrame, runs: pd.DataFrame, metric: str) -> None:
    axes.axhline(0.0, color="0.5", linewidth=1)
    curves = lines[lines["comparison"].isin(["fragment_lengths", "web_lengths"]) & lines["change"].notna()]
    for (comparison, label), curve in curves.groupby(["comparison", "label"], sort=False):
        ordered = curve.sort_values("fraction", ascending=False)
        style = "--" if comparison == "web_lengths" else "-"
        name = f"{label}, truncated" if comparison == "web_lengths" else f"fragment, {label.replace('_', ' ')}"
        (curve_line,) = axes.plot([1.0, *ordered["fraction"]], [0.0, *(100 * ordered["change"])], style, label=name)
        dots = _changes(runs, comparison, label, metric)
        axes.plot(dots["fraction"], 100 * dots["change"], ".", color=curve_line.get_color(), alpha=0.5)
    length_fractions = sorted({1.0, *curves["fraction"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(length_fractions, [f"{fraction:g}" for fraction in length_fractions])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("fraction of the mean caption that the text tower reads")
    name = "zero-shot accuracy" if _ZERO_SHOT.fullmatch(metric) else metric.rsplit("/", 1)[-1]
    axes.set_ylabel(f"change of {name}\nagainst the whole caption (points)")
    if len(curves):
        axes.legend(fontsize="small")


def method_bars(lines: pd.DataFrame, runs: pd.DataFrame, metric: str) -> Figure:
    """Plot the mean of a metric by method, at equal samples and at equal compute, with intervals over seeds and a dot per seed."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    comparisons = [name for name in ("methods", "methods_at_equal_compute") if (lines["comparison"] == name).any()]
    # A method without the metric (captioning) has no bar.
    shown = lines["comparison"].isin(comparisons) & lines["mean"].notna()
    labels = list(dict.fromkeys(lines[shown]["label"]))
    for number, comparison in enumerate(comparisons):
        chosen = lines[lines["comparison"] == comparison].set_index("label").reindex(labels)
        places = [place + 0.4 * number for place in range(len(labels))]
        # One seed has no interval; do not draw one of width 0.
        widths = [100 * width if math.isfinite(width) else math.nan for width in chosen["half_width"]]
        name = "equal samples" if comparison == "methods" else "equal compute"
        axes.bar(places, 100 * chosen["mean"], width=0.38, yerr=widths, capsize=3, label=name)
        dots = runs[(runs["comparison"] == comparison) & runs[metric].notna()]
        axes.plot([places[labels.index(label)] for label in dots["label"]], 100 * dots[metric], ".", color="0.2")
    # Recall is not below 0, even where the interval of two seeds is.
    axes.set_ylim(bottom=0.0)
    axes.set_xticks([place + 0.2 * (len(comparisons) - 1) for place in range(len(labels))], labels)
    axes.set_ylabel(f"{metric.rsplit('/', 1)[-1]} (%)")
    if comparisons:
        axes.legend(fontsize="small")
    return figure


def _changes(runs: pd.DataFrame, comparison: str, label: str, metric: str) -> pd.DataFrame:
    own = runs[(runs["comparison"] == comparison) & (runs["label"] == label)]
    base = runs[(runs["comparison"] == comparison) & (runs["label"] == own["baseline"].iloc[0])].set_index("seed")[
        metric
    ]
    return pd.DataFrame({"fraction": own["fraction"], "change": own[metric] - own["seed"].map(base)})
