"""What a model reaches, how sure that is, and how it stands beside the champion: as values, and as words for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clips_pipeline.evaluation.comparison import Difference, compare, intervals
from clips_pipeline.evaluation.items import Items
from clips_pipeline.evaluation.metric_keys import higher_is_better, is_share, set_of

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

    @property
    def verdict(self) -> str:
        """Of the difference; empty without one."""
        return "" if self.difference is None else self.difference.verdict


@dataclass(frozen=True)
class Card:
    """One of the metrics that stand first, in words; `champion` is empty where there is no comparison."""

    title: str
    value: str
    told: str
    verdict: str
    champion: str
    metric: str


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


def cards(found: Sequence[Standing], first: str) -> list[Card]:
    """The metrics that stand first: the one that decides, by its key, and the best known of the others."""
    order = sorted(found, key=lambda one: (one.metric != first, _place(one.metric)))
    best = [one for one in order if one.metric == first or _place(one.metric) < _HEADLINES][:_HEADLINES]
    return [_card(one) for one in best]


def table_head(champion: bool) -> list[str]:
    """Of the table of all metrics."""
    head = ["metric", "value", "95 % interval", "chance"]
    return [*head, "champion", "difference", "95 % interval", "won : lost"] if champion else head


def table_rows(found: Sequence[Standing], champion: bool) -> list[list[str]]:
    """Cells under `table_head`."""
    rows = []
    for one in found:
        key = one.metric + (" (less is better)" if champion and not higher_is_better(one.metric) else "")
        row = [key, _number(one.value), interval_text(one.interval), _number(one.chance)]
        rows.append([*row, *_against(one)] if champion else row)
    return rows


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


def interval_text(interval: tuple[float, float] | None) -> str:
    """`0.1234 to 0.2345`; empty for none."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _card(one: Standing) -> Card:
    percent = is_share(one.metric)

    def value(number: float) -> str:
        return f"{100 * number:.1f} %" if percent else f"{number:.3f}"

    def signed(number: float) -> str:
        return f"{100 * number:+.1f} points" if percent else f"{number:+.3f}"

    told = "no interval"
    if one.interval is not None:
        told = f"95 % interval {value(one.interval[0]).removesuffix(' %')} to {value(one.interval[1])}"
    if one.chance is not None:
        told += f", chance {value(one.chance)}"
    champion = ""
    if (d := one.difference) is not None:
        champion = f"champion {value(d.a)}, difference {signed(d.difference)} ({signed(d.low)} to {signed(d.high)})"
    return Card(readable(one.metric), value(one.value), told, one.verdict, champion, one.metric)


def _against(one: Standing) -> list[str]:
    if (d := one.difference) is None:
        return ["–"] * 4
    mark = {"better": "▲ ", "worse": "▼ "}.get(one.verdict, "")
    return [f"{d.a:.4f}", f"{mark}{d.difference:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}", f"{d.wins} : {d.losses}"]


def _place(metric: str) -> int:
    # Kind and end of a key: long captions have a mean recall too, which is no headline.
    chosen = (("retrieval", "/mean_recall@1"), ("zero_shot", "/accuracy@1"), ("caption", "loss"))
    kind = metric.split("/")[0]
    return next(
        (place for place, (wanted, end) in enumerate(chosen) if kind == wanted and metric.endswith(end)), len(chosen)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
