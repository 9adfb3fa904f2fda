"""Learning rate schedule: linear warm-up, then half a cosine. CLIPS paper, section 4; see docs/explanation/method.md.

Used through `LambdaLR`. Composer's `CosineAnnealingWithWarmupScheduler` has the same formula, but its rates come one step late:
Composer steps a scheduler before it counts the step, so update 1 has the rate of update 0
(`tests/unit/training/test_composer_parts.py`). That would not match the published runs.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from clips_pipeline.config import ConfigError

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LambdaLR


def learning_rate(done: float, *, peak: float, total: float, warmup: float = 0, floor: float = 0.0) -> float:
    """Return the rate of the update that follows `done` steps.

    With warm-up the first update has rate 0, as in the published runs. From `total` on the rate is `floor`.

    Args:
        done: steps done, or samples.
        peak: rate after the warm-up.
        total: length of the run, in the unit of `done`.
        warmup: length of the warm-up, in the same unit.
        floor: rate at the end.
    """
    if done < warmup:
        return peak * done / warmup
    progress = min((done - warmup) / (total - warmup), 1.0) if total > warmup else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(total_steps: int, warmup_steps: int = 0, floor_fraction: float = 0.0) -> Callable[[int], float]:
    """Return the function from update k (from 0) to the rate as a fraction of the peak, for `torch.optim.lr_scheduler.LambdaLR`.

    Args:
        total_steps: updates of the run.
        warmup_steps: updates of linear warm-up among them.
        floor_fraction: rate at the end, as a fraction of the peak.

    Raises:
        ConfigError: the warm-up is longer than the run, or the floor is above the peak.
    """
    if not 0 <= warmup_steps <= total_steps or total_steps < 1:
        raise ConfigError(
            f"warm-up of {warmup_steps} steps does not fit a run of {total_steps}; shorten it or train longer"
        )
    if not 0.0 <= floor_fraction <= 1.0:
        raise ConfigError(f"final learning rate is {floor_fraction} of the peak; it must be from 0 to 1 of it")

    def fraction(step: int) -> float:
        return learning_rate(step, peak=1.0, total=total_steps, warmup=warmup_steps, floor=floor_fraction)

    return fraction


def apply_current_rate(schedule: "LambdaLR") -> None:
    """Set the optimizer's rate to that of `schedule` at its current step. A checkpoint restores the rate of a former schedule."""
    groups = schedule.optimizer.param_groups
    for group, base, fraction in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * fraction(schedule.last_epoch)
