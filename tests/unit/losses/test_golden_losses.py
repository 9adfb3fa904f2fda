"""Both losses and their gradients against the authors' JAX code."""

import pytest
import torch
from tests.golden_weights import golden

from clips_pipeline.losses.caption import caption_loss
from clips_pipeline.losses.contrastive import contrastive_loss


@pytest.fixture(scope="module")
def arrays(golden_dir):
    return {key: torch.from_numpy(value) for key, value in golden(golden_dir, "losses").items() if value.ndim}


@pytest.fixture(scope="module")
def scalars(golden_dir):
    return {key: float(value) for key, value in golden(golden_dir, "losses").items() if not value.ndim}


def close(actual, expected):
    assert float((actual - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("chunk_rows", [None, 1, 3])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_contrastive(arrays, scalars, case, chunk_rows):
    name = f"contrastive{case}"
    image, web, sub, t = (
        arrays[f"{name}/in/{which}"].clone().requires_grad_() for which in ("image", "web", "sub", "t")
    )
    terms = contrastive_loss(image, web, sub, t.exp().squeeze(), chunk_rows=chunk_rows)
    loss = sum(terms) / 2
    assert float(loss) == pytest.approx(scalars[f"{name}/out/loss"], rel=2e-6)
    loss.backward()
    for which, leaf in (("image", image), ("web", web), ("sub", sub), ("t", t)):
        close(leaf.grad, arrays[f"{name}/grad/{which}"])


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
@pytest.mark.parametrize("case", [0, 1])
def test_caption(arrays, scalars, case, chunk):
    """The authors' logits are used as hidden states with an identity head, so the gradient is that of the logits."""
    name = f"caption{case}"
    logits, labels = arrays[f"{name}/in/logits"], arrays[f"{name}/in/labels"].long()
    valid = arrays[f"{name}/in/mask"].bool()
    assert torch.equal(valid, labels != 0)
    hidden = logits[valid].clone().requires_grad_()
    loss = caption_loss(hidden, torch.eye(logits.shape[-1]), labels[valid], chunk_size=chunk)
    assert float(loss) == pytest.approx(scalars[f"{name}/out/loss"], rel=2e-6)
    loss.backward()
    expected = arrays[f"{name}/grad/logits"]
    close(hidden.grad, expected[valid])
    assert not expected[~valid].any()


def test_no_target_gives_zero(scalars):
    loss = caption_loss(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0, dtype=torch.long))
    assert float(loss) == scalars["caption_no_target/out/loss"] == 0.0
