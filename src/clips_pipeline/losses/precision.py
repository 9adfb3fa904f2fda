"""Losses are computed in at least float32, whatever precision the model ran in."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def in_full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off inside."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
