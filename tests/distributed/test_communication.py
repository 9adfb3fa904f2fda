"""What ranks send in bfloat16: features and their gradients exactly so, the model's gradients within its rounding."""

from pathlib import Path

import pytest
import torch
from tests import naive
from tests.distributed.ranks import run_ranks
from tests.golden_weights import GOLDEN_CONFIG

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel

RANKS, ROWS, EMBEDDING = 2, 3, 5
CASES = {
    "plain": ("ddp", "fp32"),
    "plain, bf16": ("ddp", "bf16"),
    "sharded": ("fsdp2", "fp32"),
    "sharded, bf16": ("fsdp2", "bf16"),
}


@pytest.fixture(scope="module")
def saved():
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(4)
    return {
        "rows": [torch.randn(ROWS, EMBEDDING, generator=generator) for _ in range(RANKS)],
        "gradients": [torch.randn(RANKS * ROWS, EMBEDDING, generator=generator) for _ in range(RANKS)],
        "weights": ClipsModel(GOLDEN_CONFIG).state_dict(),
        "inputs": [
            torch.randn(8, 3, 32, 32, generator=generator),
            naive.rows(generator, 8, 12, 8, cls=101),
            naive.rows(generator, 8, 12, 8, cls=101),
            naive.rows(generator, 8, 9, 6, cls=None),
        ],
        "cases": CASES,
    }


@pytest.fixture(scope="module")
def found(saved, tmp_path_factory: pytest.TempPathFactory):
    """Return the results of each rank; one start for all, since it takes longer than the cases."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(saved, folder / "input.pt")
    worker = Path(__file__).with_name("communication_worker.py")
    run_ranks(worker, RANKS, folder / "store", folder / "input.pt", folder / "{rank}.pt")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def gradients_of(results):
    return torch.cat([gradient.flatten() for gradient in results["gradients"].values()])


def error(results, exact):
    return float((gradients_of(results) - exact).norm() / exact.norm())


def test_rows_travel_rounded_and_gradients_are_summed_rounded(saved, found) -> None:
    rounded = torch.cat(saved["rows"]).bfloat16().float()
    sent = [gradient.bfloat16() for gradient in saved["gradients"]]
    for rank, results in enumerate(found):
        torch.testing.assert_close(results["gather"]["gathered"], rounded, rtol=0, atol=0)
        own = slice(rank * ROWS, (rank + 1) * ROWS)
        torch.testing.assert_close(results["gather"]["gradient"], (sent[0][own] + sent[1][own]).float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_ranks_agree_and_bf16_adds_little_to_the_rounding_of_autocast(saved, found, name: str) -> None:
    model = ClipsModel(GOLDEN_CONFIG)
    model.load_state_dict(saved["weights"])
    parts = clips_loss(model(*saved["inputs"]), model.captioner.head.weight)
    parts.total.backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    first, second = (results[name] for results in found)
    torch.testing.assert_close(gradients_of(first), gradients_of(second), rtol=0, atol=0)
    assert float(first["loss"]) == pytest.approx(float(parts.total), rel=5e-3)
    wrapping, communication = CASES[name]
    unrounded = "plain" if wrapping == "ddp" else "sharded"
    assert error(first, exact) <= 1.5 * error(found[0][unrounded], exact)
    assert (gradients_of(first) != gradients_of(found[0][unrounded])).any() == (communication == "bf16")
    assert first["kept"] == ["torch.float32"]
    expected = {"plain": [], "plain, bf16": [], "sharded": ["torch.float32"], "sharded, bf16": ["torch.bfloat16"]}
    assert first["seen"] == expected[name]
