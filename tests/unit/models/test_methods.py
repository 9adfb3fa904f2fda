"""Each method against a naive implementation, in float64: values and every gradient; and what all methods share."""

import dataclasses

import pytest
import torch
from tests import naive
from tests.golden_weights import GOLDEN_CONFIG
from torch.nn import functional

from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.grad_cache import forward_in_chunks

LIMIT = 1e-6
METHODS = ["clip", "mixture", "coca"]


def build(method: str, padding: str, moved: bool = True) -> ClipsModel:
    captioner = dataclasses.replace(GOLDEN_CONFIG.captioner, inputs="tokens") if method == "coca" else None
    config = dataclasses.replace(
        GOLDEN_CONFIG, text=dataclasses.replace(GOLDEN_CONFIG.text, padding=padding), captioner=captioner
    )
    torch.manual_seed(1)
    model = ClipsModel(config).double()
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(method: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    text = naive.rows(generator, 3, 12, 5, cls=101)
    target = naive.rows(generator, 3, 9, 4, cls=None) if method == "coca" else text[:, :0]
    return images, text, text[:, :0], target


def teacher_forced_logits(model: ClipsModel, image_BPD: torch.Tensor, previous_ids_BQ: torch.Tensor) -> torch.Tensor:
    """Compute all positions with a dense mask: image attends to image, position i to the image and positions up to i."""
    captioner = model.captioner
    inputs = captioner.token_embedding.weight[previous_ids_BQ] + captioner.queries_QD[: previous_ids_BQ.shape[1]]
    x_BSD = torch.cat([image_BPD @ captioner.image_projection.weight.T, inputs], dim=1)
    prefix, places = image_BPD.shape[1], previous_ids_BQ.shape[1]
    allowed = torch.ones(prefix + places, prefix + places).tril().bool()
    allowed[:prefix] = False
    allowed[:, :prefix] = True
    for layer in captioner.blocks:
        x_BSD = naive.block(layer, x_BSD, allowed.expand(len(x_BSD), -1, -1))
    h = x_BSD[:, prefix:]
    h = functional.layer_norm(h, h.shape[-1:], captioner.norm.weight, captioner.norm.bias, 1e-6)
    return h @ captioner.head.weight.T


def expected_losses(model: ClipsModel, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    images, text, _, target = inputs
    image = model.vision(images)
    _, feature = naive.text(model, text)
    found = [naive.contrastive_term(naive.unit(image.feature_BE), feature, model.logit_scale.exp())]
    if model.captioner is not None:
        logits = teacher_forced_logits(model, image.tokens_BPD, target[:, :-1])
        # The last position has no target.
        found.append(naive.caption(functional.pad(logits, (0, 0, 0, 1)), target))
    return found


@pytest.mark.parametrize("padding", ["attend", "mask"])
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_every_gradient(method: str, padding: str) -> None:
    model, inputs = build(method, padding), batch(method)
    head = None if model.captioner is None else model.captioner.head.weight
    parts = clips_loss(model(*inputs), head, LossWeights(0.7, 2.0))
    expected = expected_losses(model, inputs)
    assert float((parts.contrastive - expected[0]).abs()) < LIMIT
    assert parts.contrastive_fragment is None
    assert (parts.caption is None) == (method != "coca")
    total = 0.7 * expected[0]
    if parts.caption is not None:
        assert float((parts.caption - expected[1]).abs()) < LIMIT
        total = total + 2.0 * expected[1]
    names, parameters = zip(*model.named_parameters(), strict=True)
    # Without `allow_unused`: every parameter of a method has a gradient.
    gradients = torch.autograd.grad(parts.total, parameters)
    for name, gradient, other in zip(names, gradients, torch.autograd.grad(total, parameters), strict=True):
        assert float((gradient - other).abs().max()) < LIMIT, name


@pytest.mark.parametrize("method", METHODS)
def test_in_chunks_a_method_gives_the_same(method: str) -> None:
    model, inputs = build(method, "mask"), batch(method)
    head = None if model.captioner is None else model.captioner.head.weight
    totals = [clips_loss(output, head).total for output in (model(*inputs), forward_in_chunks(model, *inputs, 2))]
    whole, chunked = (torch.autograd.grad(total, list(model.parameters())) for total in totals)
    assert float((totals[0] - totals[1]).abs()) < LIMIT
    assert all(float((a - b).abs().max()) < LIMIT for a, b in zip(whole, chunked, strict=True))


def test_all_methods_start_with_the_same_towers() -> None:
    torch.manual_seed(1)
    clips = ClipsModel(GOLDEN_CONFIG).double().state_dict()
    for method in METHODS:
        state = build(method, "attend", moved=False).state_dict()
        towers = {name for name in state if not name.startswith("captioner.")}
        assert towers == {name for name in clips if not name.startswith("captioner.")}
        assert all(torch.equal(state[name], clips[name]) for name in towers)


def test_teacher_forcing_reads_preceding_words_only() -> None:
    model, (images, text, none, target) = build("coca", "mask"), batch("coca")
    target = target.clone()
    target[:, :6] = torch.tensor([1, 105, 106, 107, 108, 2])
    hidden = model(images, text, none, target).caption_hidden_ND.unflatten(0, (3, -1))
    target[:, 3] = 119
    changed = model(images, text, none, target).caption_hidden_ND.unflatten(0, (3, -1))
    # Position 2 predicts id 3 without reading it; position 3 reads it.
    assert torch.equal(hidden[:, :3], changed[:, :3])
    assert not torch.allclose(hidden[:, 3], changed[:, 3])


def test_predicting_all_words_at_once_needs_queries() -> None:
    for method in ("clip", "coca"):
        model, inputs = build(method, "mask"), batch(method)
        with pytest.raises(ValueError, match="method clips"):
            model.caption_logits(*inputs[:2])
