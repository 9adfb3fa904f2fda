"""Two gloo ranks give the loss and every gradient of one process on the joint batch."""

from dataclasses import replace
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
    "sigmoid": (4, 4, None, None),
    "sigmoid, three fragments, chunked": (2, 6, 2, None),
    "three fragments": (2, 6, None, None),
    "sigmoid, towers in chunks": (2, 7, None, 2),
}


def joint_batch(first, second, fragments=1):
    generator = torch.Generator().manual_seed(5)
    targets = [naive.rows(generator, 3, 9, max(longest, 1), cls=None) * (longest > 0) for longest in (first, second)]
    return [
        torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64),
        naive.rows(generator, 6, 12, 8, cls=101),
        naive.rows(generator, 6 * fragments, 12, 8, cls=101).reshape(6, *([fragments] if fragments > 1 else []), 12),
        torch.cat(targets),
    ]


def contrastive(case):
    return "sigmoid" if "sigmoid" in case else "softmax"


def batch_of(case):
    return joint_batch(*CASES[case][:2], 3 if "fragments" in case else 1)


@pytest.fixture(scope="module")
def models():
    found = {}
    for kind in ("softmax", "sigmoid"):
        torch.manual_seed(4)
        found[kind] = ClipsModel(replace(GOLDEN_CONFIG, contrastive=kind)).double()
    return found


@pytest.fixture(scope="module")
def found(models, tmp_path_factory: pytest.TempPathFactory):
    """Return the results of each rank for all cases; one start for all, since it takes longer than the cases."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {
        name: {
            "weights": models[contrastive(name)].state_dict(),
            "contrastive": contrastive(name),
            "inputs": batch_of(name),
            "chunk": chunk,
            "towers": towers,
        }
        for name, (_, _, chunk, towers) in CASES.items()
    }
    torch.save(cases, folder / "input.pt")
    worker = Path(__file__).with_name("losses_worker.py")
    run_ranks(worker, RANKS, folder / "store", folder / "input.pt", folder / "{rank}.pt")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(found, models, case: str):
    model, inputs = models[contrastive(case)], batch_of(case)
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
    sent = [result[case]["sent"] for result in found for case in CASES if "towers" in case]
    assert len(sent) == 3 * RANKS
    assert all(set(counts) == {1} for counts in sent)
