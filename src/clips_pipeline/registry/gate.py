"""Whether a new model takes over the champion's alias.

The rule today: it does when there is no champion, or when its metric is greater than the champion's. A difference that
chance alone could explain still promotes; docs/registry.md says what a stricter rule needs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from clips_pipeline.config import ConfigError


@dataclass(frozen=True)
class Decision:
    """The outcome, with a sentence that explains it to a reader of the registry."""

    promote: bool
    reason: str


def decide(metric: str, candidate: Mapping[str, float], champion: Mapping[str, float] | None) -> Decision:
    """Compare two models by one metric, of which more is better.

    Args:
        metric: a key of the metrics.
        candidate: metrics of the new model.
        champion: metrics of the present champion; None where there is none.

    Raises:
        ConfigError: the candidate has no such metric, or it is not a finite number.
    """
    if metric not in candidate:
        raise ConfigError(f"register.metric: {metric!r} was not measured; choose one of {', '.join(sorted(candidate))}")
    value = candidate[metric]
    if not math.isfinite(value):
        raise ConfigError(f"register.metric: {metric!r} is {value}; a model without a score cannot be compared")
    if champion is None:
        return Decision(True, f"first champion: {metric} = {value:.4f}")
    if metric not in champion:
        # Two models measured on different sets say nothing about each other; a person has to choose.
        return Decision(False, f"not comparable: the champion has no {metric}; set the alias by hand to change it")
    held = champion[metric]
    comparison = f"{metric} = {value:.4f}, the champion's is {held:.4f}"
    return Decision(True, f"better: {comparison}") if value > held else Decision(False, f"not better: {comparison}")
