"""What the key of a metric says: `kind/set/name`, such as `retrieval/scenes/mean_recall@1`."""

from collections.abc import Iterable

from clips_pipeline.config import ConfigError

COMPOSITIONALITY_SETS = ("sugarcrepe", "winoground")
"""Kinds whose items are not the images of a split. Each is a set of its own, and the middle of its keys names a part of it."""


def set_of(metric: str) -> str:
    """The set that a metric was measured on: the middle of its key, or `sugarcrepe` or `winoground` themselves."""
    kind, _, rest = metric.partition("/")
    return kind if kind in COMPOSITIONALITY_SETS else rest.partition("/")[0]


def split_set(metrics: Iterable[str]) -> str:
    """The set whose images an evaluation's metrics were measured on.

    Raises:
        ConfigError: there is no metric of a split.
    """
    found = {set_of(metric) for metric in metrics} - set(COMPOSITIONALITY_SETS)
    if len(found) != 1:
        raise ConfigError(
            f"metrics of {', '.join(sorted(found)) or 'no set'}, where those of one are expected; run `kedro run "
            "--pipelines evaluate` again"
        )
    return found.pop()


def short_key(metric: str) -> str:
    """Without the set, where the same metric is measured on many: `retrieval/mean_recall@1`, but `sugarcrepe/mean/accuracy`."""
    kind, _, rest = metric.partition("/")
    return metric if kind in COMPOSITIONALITY_SETS else f"{kind}/{rest.rpartition('/')[2]}"


def full_key(short: str, set_name: str) -> str:
    """The key on a set; the inverse of `short_key`."""
    kind, _, name = short.partition("/")
    return short if kind in COMPOSITIONALITY_SETS else f"{kind}/{set_name}/{name}"


def item_name(metric: str) -> str:
    """What is drawn and counted, in the plural."""
    return "pairs" if set_of(metric) == "winoground" else "images"


def higher_is_better(metric: str) -> bool:
    """Of a metric by its key; only a loss is better when it is lower."""
    return not metric.endswith("loss")


def is_fraction(metric: str) -> bool:
    """Whether it lies between 0 and 1, so that it may be told in percent: all but losses and CIDEr."""
    return higher_is_better(metric) and not metric.endswith("/cider")
