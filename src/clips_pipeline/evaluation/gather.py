"""What ranks have worked out apart, brought together. Needs torch.distributed and no trainer.

Legend of suffixes: R rows of one rank, X whatever else.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

T = TypeVar("T")


def gathered(
    rows_RX: npt.NDArray[Any], group: dist.ProcessGroup | None, device: torch.device
) -> list[npt.NDArray[Any]]:
    """The arrays of all ranks, in their order, on rank 0 of `group`; elsewhere an empty list.

    Args:
        rows_RX: of this rank, possibly none; same dtype and trailing shape on all ranks.
        group: the ranks; None is this process alone.
        device: whose tensors the group's backend sends.
    """
    if group is None or dist.get_world_size(group) == 1:
        return [rows_RX]
    ranks, mine = dist.get_world_size(group), torch.tensor([len(rows_RX)], device=device)
    counts = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(counts, mine, group=group)
    # Collectives want equal shapes.
    padded_RX = torch.zeros(max(int(count) for count in counts), *rows_RX.shape[1:], dtype=_dtype(rows_RX))
    padded_RX[: len(rows_RX)] = torch.from_numpy(rows_RX)
    padded_RX = padded_RX.to(device)
    if dist.get_rank(group) != 0:
        dist.gather(padded_RX, None, group=group, group_dst=0)
        return []
    parts = [torch.empty_like(padded_RX) for _ in range(ranks)]
    dist.gather(padded_RX, parts, group=group, group_dst=0)
    return [part[: int(count)].cpu().numpy() for part, count in zip(parts, counts, strict=True)]


def same_on_all(work: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """What `work` returns on rank 0 of `group`, on every rank; the others do not call it.

    Raises:
        ValueError: with the message that it has on rank 0, on every rank: nobody waits for one that has given up.
    """
    if group is None or dist.get_world_size(group) == 1:
        return work()
    outcome: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            outcome[0] = work()
        except ValueError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, group=group, group_src=0)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    found: T = outcome[0]
    return found


def _dtype(array: npt.NDArray[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
