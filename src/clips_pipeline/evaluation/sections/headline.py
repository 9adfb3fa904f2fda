"""The first section: what the model reaches, how sure that is, and how it stands beside the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clips_pipeline.evaluation.comparison import CONFIDENCE, Difference, compare, intervals
from clips_pipeline.evaluation.items import Items
from clips_pipeline.evaluation.metric_keys import higher_is_better, is_share, set_of
from clips_pipeline.reports.figure import LINE, SERIES, SOFT, label, svg
from clips_pipeline.reports.page import bdi, table, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLES = 2_000
_HEADLINES = 3


@dataclass(frozen=True)
class Standing:
    """One metric.

    Attributes:
        metric: its key.
        value: of the model.
        interval: of the value; None where there are no per-item results of it.
        chance: what a model that knows nothing reaches; None where that is not known.
        difference: to the champion, A the champion; None where the two were not compared.
        champion_interval: of the champion's value.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    chance: float | None = None
    difference: Difference | None = None
    champion_interval: tuple[float, float] | None = None


def standings(
    metrics: Mapping[str, float],
    chance: Mapping[str, float],
    items: Mapping[str, Items],
    champion: Mapping[str, Items] | None = None,
    *,
    resamples: int = _RESAMPLES,
) -> list[Standing]:
    """Every metric with its intervals.

    Args:
        metrics: flat numbers, as in `metrics.json`.
        chance: under the same keys.
        items: per-item results of the model, by set.
        champion: and of the model that it is compared with, as far as there are any.
        resamples: of each bootstrap.

    Raises:
        ConfigError: the two were evaluated on other images.
    """
    others = champion or {}
    differences: dict[str, Difference] = {}
    for name in items.keys() & others.keys():
        a, b = others[name], items[name]
        both = [
            one for one in metrics if set_of(one) == name and a.holds(one) and b.holds(one) and a.on_terms_of(b, one)
        ]
        if both:
            compared = compare(a, b, both, resamples=resamples)
            differences |= {one.metric: one for one in compared}

    own = intervals(items, metrics, resamples=resamples)
    theirs = intervals(others, differences, resamples=resamples)
    return [
        Standing(name, value, own.get(name), chance.get(name), differences.get(name), theirs.get(name))
        for name, value in metrics.items()
    ]


def headline(found: Sequence[Standing], first: str, note: str = "") -> str:
    """HTML of the section.

    Args:
        found: of `standings`.
        first: the key of the metric that decides; it stands first.
        note: what else is to be said about the comparison, plain text; empty for nothing.
    """
    order = sorted(found, key=lambda one: (one.metric != first, _place(one.metric)))
    best = [one for one in order if one.metric == first or _place(one.metric) < _HEADLINES][:_HEADLINES]
    cards = "".join(_card(one) for one in best)
    told = f"<p>{text(note)}</p>" if note else ""
    return f'<div class="figures">{cards}</div>{told}'


def all_metrics(found: Sequence[Standing], champion: str | None) -> str:
    """HTML of every metric: a figure of the intervals, and the table."""
    if champion is None:
        rows = [[bdi(s.metric), _number(s.value), _reach(s.interval), _number(s.chance)] for s in found]
        shown = table(["metric", "value", "95 % interval", "chance"], rows, "Every metric on this set")
    else:
        rows = [
            [
                bdi(s.metric) + ("" if higher_is_better(s.metric) else " (less is better)"),
                _number(s.value),
                _reach(s.interval),
                _number(s.chance),
                *_against(s),
            ]
            for s in found
        ]
        head = ["metric", "value", "95 % interval", "chance", "champion", "difference", "95 % interval", "won : lost"]
        shown = table(head, rows, f"Every metric on this set, beside {champion}")
    how = (
        "<p>Intervals: bootstrap over images (of Winoground over pairs), captions of an image together; for differences the same "
        "are drawn for both models. Won and lost: items on which the two differ. Chance: what a model that knows nothing "
        "reaches. Intervals say nothing about other seeds or other data.</p>"
    )
    return f'{_figure(found)}<div class="dense">{shown}</div>' + f'<div class="soft">{how}</div>'


def verdict(one: Standing) -> str:
    """`better`, `worse`, `even` (chance could explain the difference) or, without a comparison, nothing."""
    if one.difference is None:
        return ""
    if one.difference.low <= 0 <= one.difference.high:
        return "even"
    return "better" if (one.difference.difference > 0) == higher_is_better(one.metric) else "worse"


def _card(one: Standing) -> str:
    share = is_share(one.metric)
    lines = [f"95 % interval {_percents(one.interval, share)}" if one.interval else "no interval"]
    if one.chance is not None:
        lines.append(f"chance {_percent(one.chance, share)}")
    said = {
        "better": ("better", "▲ surely better than the champion"),
        "worse": ("worse", "▼ surely worse than the champion"),
        "even": ("", "≈ chance could explain the difference to the champion"),
        "": ("", ""),
    }[verdict(one)]
    compared = ""
    if one.difference is not None:
        low, high = one.difference.low, one.difference.high
        compared = (
            f"<br><small>champion {_percent(one.difference.a, share)}, difference "
            f"{_signed(one.difference.difference, share)} ({_signed(low, share)} to {_signed(high, share)})</small>"
        )
    told = f'<p class="{said[0]}">{said[1]}{compared}</p>' if said[1] else ""
    return (
        f'<section class="figure-card"><h3>{text(readable(one.metric))}</h3><p class="big">{_percent(one.value, share)}</p>'
        f"<p><small>{', '.join(lines)}</small></p>{told}"
        f"<p><small><code>{text(one.metric)}</code></small></p></section>"
    )


def readable(metric: str) -> str:
    """A metric's name for people: no two are alike, and none is too long for a figure."""
    kind, _, rest = metric.partition("/")
    part, _, end = rest.rpartition("/")
    of_part = f" {part.replace('_', ' ')}" if kind == "sugarcrepe" else ""
    what = {"retrieval_long": "long captions", "zero_shot": "zero-shot"}.get(kind, kind)
    name = end.replace("_", " ").replace("@", " at ")
    if kind == "retrieval_long":
        name = name.replace("image recall", "image").replace("text recall", "text")
    return f"{what}{of_part}: {name}".replace("caption: loss", "caption loss, nats per token")


def _figure(found: Sequence[Standing]) -> str:
    shares = [one for one in found if is_share(one.metric) and one.interval is not None]
    if not shares:
        return ""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        named: set[str] = set()

        def once(name: str) -> str | None:
            """For the legend: not every metric has a champion's beside it."""
            first = name not in named
            named.add(name)
            return name if first else None

        for place, one in enumerate(reversed(shares)):
            low, high = one.interval or (one.value, one.value)
            axes.plot([low, high], [place, place], color=SERIES[0], linewidth=2.5, solid_capstyle="butt")
            axes.plot(one.value, place, "o", color=SERIES[0], label=once("this model"))
            if one.difference is not None and one.champion_interval is not None:
                under = place - 0.28
                axes.plot(one.champion_interval, [under, under], color=SERIES[1], linewidth=1.2)
                axes.plot(one.difference.a, under, "D", color=SERIES[1], markersize=4, label=once("champion"))
            if one.chance is not None:
                axes.plot(one.chance, place, "|", color=SOFT, markersize=11, label=once("chance"), zorder=1)
        axes.set_yticks(range(len(shares)), [label(readable(one.metric)) for one in reversed(shares)])
        axes.set_xlim(left=0)
        axes.set_ylim(-0.7, len(shares) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(LINE)
        figure.legend(loc="outside upper left", ncols=3)

    told = "; ".join(f"{readable(one.metric)} {one.value:.3f}, {_reach(one.interval)}" for one in shares)
    drawing = svg(draw, f"Metrics with {CONFIDENCE:.0%} intervals: {told}", size=(5.2, 0.6 + 0.26 * len(shares)))
    return f'<figure class="broad">{drawing}</figure>'


def _against(one: Standing) -> list[str]:
    if one.difference is None:
        return ["–"] * 4
    d = one.difference
    mark = {"better": "▲ ", "worse": "▼ ", "even": ""}[verdict(one)]
    return [
        f"{d.a:.4f}",
        f"{mark}{d.difference:+.4f}",
        f"{d.low:+.4f} to {d.high:+.4f}",
        f"{d.wins} : {d.losses}",
    ]


def _place(metric: str) -> int:
    # Kind and end of a key: long captions have a mean recall too, which is no headline.
    chosen = (("retrieval", "/mean_recall@1"), ("zero_shot", "/accuracy@1"), ("caption", "loss"))
    kind = metric.split("/")[0]
    return next(
        (place for place, (wanted, end) in enumerate(chosen) if kind == wanted and metric.endswith(end)), len(chosen)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _reach(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _percent(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.3f}"


def _percents(interval: tuple[float, float], share: bool) -> str:
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f} %" if share else f"{low:.3f} to {high:.3f}"


def _signed(value: float, share: bool) -> str:
    return f"{100 * value:+.1f} points" if share else f"{value:+.3f}"
