"""Metric keys: `kind/set/name`, such as `retrieval/scenes/mean_recall@1`."""

from collections.abc import Iterable

from clips_pipeline.config import ConfigError
from clips_pipeline.text.methods import AUTOREGRESSIVE_METHODS, CAPTIONING_METHODS, CONTRASTIVE_METHODS

COMPOSITIONALITY_SETS = ("sugarcrepe", "sugarcrepe_pp", "winoground", "mmvp_vlm")
"""Kinds that are sets of their own rather than splits. The middle of their keys names a subset."""


def set_of(metric: str) -> str:
    """Return the set that a metric belongs to: the middle of its key, or the kind if it is a compositionality set."""
    kind, _, rest = metric.partition("/")
    return kind if kind in COMPOSITIONALITY_SETS else rest.partition("/")[0]


def split_set(metrics: Iterable[str]) -> str:
    """Return the name of the split's set in the metrics of one evaluation.

    Raises:
        ConfigError: the metrics belong to no split, or to several.
    """
    found = {set_of(metric) for metric in metrics} - set(COMPOSITIONALITY_SETS)
    if len(found) != 1:
        raise ConfigError(
            f"metrics: of {', '.join(sorted(found)) or 'no set'}, but expected to be of exactly one set; run `kedro run "
            "--pipelines evaluate` again"
        )
    return found.pop()


def short_key(metric: str) -> str:
    """Return the key without the set name: `retrieval/mean_recall@1`. Keys of compositionality sets stay as they are."""
    kind, _, rest = metric.partition("/")
    return metric if kind in COMPOSITIONALITY_SETS else f"{kind}/{rest.rpartition('/')[2]}"


def full_key(short: str, set_name: str) -> str:
    """Return the full key on a set; the inverse of `short_key`."""
    kind, _, name = short.partition("/")
    return short if kind in COMPOSITIONALITY_SETS else f"{kind}/{set_name}/{name}"


def check_method_has(metric: str, method: str, key: str) -> None:
    """Refuse a metric that no model of this training method has.

    Args:
        metric: key of the metric.
        method: `train.method`.
        key: the parameter that names the metric, for the message.

    Raises:
        ConfigError: names the parameter and metrics that the method has.
    """
    kind, set_name = metric.partition("/")[0], set_of(metric)
    # Methods whose captioner reads the previous words have another loss, and only those without a text tower write captions.
    loss = f"caption/{set_name}/{'teacher_forced_loss' if method in AUTOREGRESSIVE_METHODS else 'loss'}"
    captions, contrasts = method in CAPTIONING_METHODS, method in CONTRASTIVE_METHODS
    if kind == "caption":
        written = captions and (method not in AUTOREGRESSIVE_METHODS or not contrasts)
        has = captions and (metric == loss if metric.endswith("loss") else written)
    else:
        has = contrasts or kind == "probe"
    if has:
        return
    others = [*([f"retrieval/{set_name}/mean_recall@1"] if contrasts else []), *([loss] if captions else [])]
    lacks = "captioner" if contrasts and not captions else "text tower" if not contrasts else "such metric"
    raise ConfigError(
        f"{key}: {metric} does not exist for train.method {method}, which has no {lacks}; set {' or '.join(others)}"
    )


def item_name(metric: str) -> str:
    """Return the plural noun for the items that the bootstrap draws."""
    return "pairs" if set_of(metric) in ("winoground", "mmvp_vlm") else "images"


def higher_is_better(metric: str) -> bool:
    """Return whether a higher value is better, which is true of all metrics except losses."""
    return not metric.endswith("loss")


def is_fraction(metric: str) -> bool:
    """Return whether the metric lies between 0 and 1, so that it can be shown in percent: all but losses and CIDEr."""
    return higher_is_better(metric) and not metric.endswith("/cider")
