"""Compiled blocks in chunks on two ranks: the second run of a chunk finds the graphs of its forward pass."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tests import naive
from tests.distributed.ranks import run_ranks
from tests.golden_weights import GOLDEN_CONFIG

from clips_pipeline.models.clips import ClipsModel

RANKS, ROWS, BATCHES = 2, 10, 2
LIMIT = 1e-2
# Blocks of 1.2 MB: DDP's first bucket of gradients ends within one.
WIDTH = {"width": 160, "heads": 4}
CONFIG = dataclasses.replace(
    GOLDEN_CONFIG,
    vision=dataclasses.replace(GOLDEN_CONFIG.vision, **WIDTH),
    text=dataclasses.replace(GOLDEN_CONFIG.text, **WIDTH),
    captioner=dataclasses.replace(GOLDEN_CONFIG.captioner, **WIDTH),
)


@pytest.mark.slow  # the compiler traces for half a minute
def test_gradients_are_those_of_plain_blocks_and_no_batch_adds_a_graph(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    batches = [
        (
            torch.randn(ROWS, 3, 32, 32, generator=generator),
            naive.rows(generator, ROWS, 12, longest, cls=101),
            naive.rows(generator, ROWS, 12, longest, cls=101),
            naive.rows(generator, ROWS, 9, longest, cls=None),
        )
        for longest in range(7, 7 - BATCHES, -1)
    ]
    torch.save({"weights": ClipsModel(CONFIG).state_dict(), "batches": batches}, tmp_path / "input.pt")
    worker = Path(__file__).with_name("compiled_worker.py")
    run_ranks(worker, RANKS, tmp_path / "store", tmp_path / "input.pt", tmp_path / "{rank}.pt")
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, theirs in zip(found["compiled"]["steps"], found["plain"]["steps"], strict=True):
            one, other = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (ours, theirs))
            # In bfloat16, whose products the compiler orders otherwise.
            assert float((one - other).norm() / other.norm()) < LIMIT
        first, second = found["compiled"]["graphs"]
        assert first == second > 0
