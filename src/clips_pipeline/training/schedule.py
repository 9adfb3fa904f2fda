"""The learning rate over a run: linear warm-up, then half a cosine. CLIPS paper, section 4; see docs/method.md.

A `LambdaLR` for Composer's `schedulers`, since the formula of its own `CosineAnnealingWithWarmupScheduler` is this one but its
rates come a step late: Composer steps a scheduler before it counts the step, so update 1 has the rate of update 0
(`tests/unit/training/test_composer_parts.py`), and published runs would not be matched.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from clips_pipeline.config import ConfigError

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LambdaLR


def learning_rate(done: float, *, peak: float, total: float, warmup: float = 0, floor: float = 0.0) -> float:
    """The rate of the update that comes after `done` steps (or samples; `total` and `warmup` in the same unit).

    With warm-up the very first update has rate 0, as in the published runs. From `total` on the rate stays at `floor`.
    """
    if done < warmup:
        return peak * done / warmup
    progress = min((done - warmup) / (total - warmup), 1.0) if total > warmup else 1.0
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(total_steps: int, warmup_steps: int = 0, floor_share: float = 0.0) -> Callable[[int], float]:
    """The rate of update k (from 0) as a share of the peak, for `torch.optim.lr_scheduler.LambdaLR`.

    Args:
        total_steps: updates of the run.
        warmup_steps: updates of linear warm-up among them.
        floor_share: where the cosine ends, as a share of the peak.

    Raises:
        ConfigError: the warm-up is longer than the run, or the floor is above the peak.
    """
    if not 0 <= warmup_steps <= total_steps or total_steps < 1:
        raise ConfigError(
            f"warm-up of {warmup_steps} steps does not fit a run of {total_steps}; shorten it or train longer"
        )
    if not 0.0 <= floor_share <= 1.0:
        raise ConfigError(f"final learning rate is {floor_share} of the peak; it must be between 0 and 1 of it")

    def share(step: int) -> float:
        return learning_rate(step, peak=1.0, total=total_steps, warmup=warmup_steps, floor=floor_share)

    return share


def apply_current_rate(schedule: "LambdaLR") -> None:
    """Give the optimiser the rate of `schedule` at the step where it stands; loading a checkpoint gave it a former one's."""
    groups = schedule.optimizer.param_groups
    for group, base, share in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * share(schedule.last_epoch)
