"""Losses compute in at least float32, whatever the precision of the model."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Disable autocast inside the context, on any device. (The meta device has none.)"""
    if device.type == "meta":
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
