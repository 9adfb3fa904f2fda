"""Training curves: losses, logit scale, learning rate, held-out recall and throughput."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clips_pipeline.reports.figure import SERIES, SOFT, Chart, svg
from clips_pipeline.reports.page import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 300


@dataclass(frozen=True)
class _Curves:
    """One chart: its title, its columns with their labels, and the text below."""

    title: str
    columns: Mapping[str, str]
    about: str


_CHARTS = (
    _Curves(
        "contrastive loss",
        {
            "loss_contrastive": "both",
            "loss_contrastive_web": "web",
            "loss_contrastive_fragment": "fragments",
        },
        "web captions, fragments of synthetic captions, and the mean of both",
    ),
    _Curves("caption loss", {"loss_caption": "synthetic caption"}, "nats per token of the synthetic caption"),
    _Curves("logit scale", {"logit_scale": "scale"}, "factor of the similarities, at most 100"),
    _Curves("learning rate", {"learning_rate": "rate"}, "warm-up, then decay"),
    _Curves(
        "held-out recall",
        {
            "validation_mean_recall@1": "mean @1",
            "validation_image_to_text_recall@5": "to text @5",
            "validation_text_to_image_recall@5": "to image @5",
        },
        "on the validation split",
    ),
    _Curves("held-out caption loss", {"validation_caption_loss": "synthetic caption"}, "on the validation split"),
    _Curves("speed", {"samples_per_s": "samples per second"}, "from one logged step to the next"),
)


def training_charts(history: Sequence[Mapping[str, Any]], contrastive: str = "softmax") -> list[Chart]:
    """Draw the charts; metrics that were not logged are left out.

    Args:
        history: one mapping per logged step, as in `training_history.csv`; NaN and None are missing values.
        contrastive: `train.loss.contrastive`; chance is drawn for "softmax"; for "sigmoid" it changes with scale and bias.
    """
    return [drawn for curves in _CHARTS if (drawn := _chart(curves, history, contrastive)) is not None]


def _chart(chart: _Curves, history: Sequence[Mapping[str, Any]], contrastive: str) -> Chart | None:
    curves = {
        name: [(float(row["step"]), float(row[column])) for row in history if _is_number(row.get(column))]
        for column, name in chart.columns.items()
    }
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    batch = float(history[0]["samples"]) / max(1.0, float(history[0]["step"]))
    has_chance = chart.title == "contrastive loss" and contrastive == "softmax" and batch > 1
    chance = math.log(batch) if has_chance else None
    about = chart.about if chance is None else f"{chart.about}; dotted: chance level, log(batch size)"

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        looks = zip(curves.items(), SERIES, ("-", "--", "-."), strict=False)
        for place, ((name, points), color, style) in enumerate(looks):
            step_P, mean_P, least_P, most_P = thinned(points)
            if len(points) > _MOST_POINTS:
                axes.fill_between(step_P, least_P, most_P, color=color, alpha=0.25, linewidth=0)
            marker = "o" if len(points) <= 12 else None
            axes.plot(
                step_P,
                mean_P,
                color=color,
                linestyle=style,
                marker=marker,
                markersize=3,
                linewidth=0.8 if place else 1.6,
                label=name,
                zorder=3 - 0.1 * place,
            )
        if chance is not None:
            axes.axhline(chance, color=SOFT, linestyle=":", linewidth=1)
        axes.set_xlabel("step")
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.2)

    ends = "; ".join(f"{name} from {format_number(p[0][1])} to {format_number(p[-1][1])}" for name, p in curves.items())
    return Chart(svg(draw, f"{chart.title} by step: {ends}"), chart.title, f"{ends}.", about)


def thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Average neighboring points: last steps, means, minima and maxima of P groups."""
    found: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
    for part in np.array_split(np.array(points), min(_MOST_POINTS, len(points))):
        values = part[:, 1]
        for column, value in zip(found, (part[-1, 0], values.mean(), values.min(), values.max()), strict=True):
            column.append(float(value))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
