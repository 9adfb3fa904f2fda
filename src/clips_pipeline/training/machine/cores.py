"""How many cores a rank has for itself."""

import os
from collections.abc import Collection, Sequence

from composer.utils import dist
from joblib import cpu_count


def cores_of_rank(mine: Collection[int], on_machine: Sequence[Collection[int]], quota: float | None = None) -> float:
    """Return how many cores this rank has for itself: a core that k ranks may use counts as 1 / k of a core.

    So it does not matter whether the starter has given each rank cores of its own, or all ranks may use all cores.

    Args:
        mine: cores that this rank may use.
        on_machine: the same of each rank on this machine, this one included.
        quota: cores' worth of time that the ranks of this machine may use together; None: no limit.
    """
    shares = sum(1 / sum(core in cores for cores in on_machine) for core in mine)
    return shares if quota is None else min(shares, quota / len(on_machine))


def own_cores() -> float:
    """Return `cores_of_rank` of this rank. A collective operation: every rank must call it."""
    machine, mine = dist.get_node_rank(), os.sched_getaffinity(0)
    # joblib knows the cores of this process and the CPU limit of its container, and returns the smaller one.
    allowed = cpu_count()
    quota = allowed if allowed < len(mine) else None
    found: list[tuple[int, set[int]]] = dist.all_gather_object((machine, mine))
    return cores_of_rank(mine, [cores for other, cores in found if other == machine], quota)


def threads_of_rank() -> int:
    """Return how many torch threads fit `own_cores`. A collective operation: every rank must call it."""
    # Shares such as 3 x 1/3 may add up to a little less than a whole core.
    return max(1, int(own_cores() + 1e-6))
