"""Two gloo ranks give the loss and every gradient of one process on the joint batch."""

from pathlib import Path

import pytest
import torch
from tests import naive
from tests.distributed.ranks import run_ranks
from tests.golden_weights import GOLDEN_CONFIG

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel

RANKS = 2
LIMIT = 1e-6
# Longest target (in body tokens) of the first and the second half of the batch, 0 leaves a rank without any target; rows of
# contrastive logits at once; rows in the towers at once, under DDP.
CASES = {
    "even": (4, 4, None, None),
    "uneven": (1, 7, None, None),
    "chunked": (2, 6, 2, None),
    "none on one rank": (5, 0, None, None),
    "none": (0, 0, None, None),
    "towers in chunks": (2, 7, None, 2),
    "towers in chunks, none on one rank": (5, 0, None, 1),
}


def joint_batch(first, second):
    generator = torch.Generator().manual_seed(5)
    targets = [naive.rows(generator, 3, 9, max(longest, 1), cls=None) * (longest > 0) for longest in (first, second)]
    return [
        torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64),
        naive.rows(generator, 6, 12, 8, cls=101),
        naive.rows(generator, 6, 12, 8, cls=101),
        torch.cat(targets),
    ]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    return ClipsModel(GOLDEN_CONFIG).double()


@pytest.fixture(scope="module")
def found(model: ClipsModel, tmp_path_factory: pytest.TempPathFactory):
    """Return the results of each rank for all cases; one start for all, since it takes longer than the cases."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {
        name: {"weights": model.state_dict(), "inputs": joint_batch(first, second), "chunk": chunk, "towers": towers}
        for name, (first, second, chunk, towers) in CASES.items()
    }
    torch.save(cases, folder / "input.pt")
    worker = Path(__file__).with_name("losses_worker.py")
    run_ranks(worker, RANKS, folder / "store", folder / "input.pt", folder / "{rank}.pt")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(found, model: ClipsModel, case: str):
    first, second, *_ = CASES[case]
    inputs = joint_batch(first, second)
    model.zero_grad()
    expected = clips_loss(model(*inputs), model.captioner.head.weight)
    expected.total.backward()
    valid = [int((half[:, 1:] != 0).sum()) for half in inputs[3].chunk(RANKS)]
    assert [result[case]["targets"] for result in found] == valid
    assert (valid[0] == valid[1] == 0) == (case == "none")
    for result in found:
        assert float((result[case]["losses"] - torch.stack(list(expected)).detach()).abs().max()) < LIMIT
        for name, parameter in model.named_parameters():
            assert float((result[case]["gradients"][name] - parameter.grad).abs().max()) < LIMIT, name


def test_under_ddp_chunks_send_each_gradient_once(found):
    sent = [result[case]["sent"] for result in found for case in CASES if case.startswith("towers")]
    assert len(sent) == 2 * RANKS
    assert all(set(counts) == {1} for counts in sent)
