"""Gradient caching: values and gradients of the plain forward pass, with less memory."""

import pytest
import torch
from tests.unit.models.test_exactness import VARIANTS, batch, build

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.grad_cache import forward_in_chunks

LIMIT = 1e-10


def gradients(model, output):
    parts = clips_loss(output, model.captioner.head.weight)
    return parts, torch.autograd.grad(parts.total, list(model.parameters()))


@pytest.mark.parametrize(("padding", "condition"), VARIANTS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 9])
def test_loss_and_every_gradient(padding, condition, chunk):
    model, inputs = build(padding, condition), batch(longest_text=8, longest_target=7, size=7)
    plain, expected = gradients(model, model(*inputs))
    parts, found = gradients(model, forward_in_chunks(model, *inputs, chunk))
    for ours, theirs in zip((*parts, *found), (*plain, *expected), strict=True):
        assert float((ours - theirs).abs().max()) < LIMIT


def test_features_come_back_in_the_order_of_the_batch():
    model, inputs = build(), batch(size=7, longest_target=7)
    plain, chunked = model(*inputs), forward_in_chunks(model, *inputs, 2)
    for name in ("image_BE", "web_BE", "fragment_BE"):
        torch.testing.assert_close(getattr(chunked, name), getattr(plain, name), rtol=0, atol=1e-12)


def test_activations_of_one_chunk_at_a_time_are_held():
    """Apart from features and captioner states, the memory of the graph does not grow with the batch."""
    model = build()

    def held(size):
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        inputs = batch(size=size)
        own = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, *model.parameters())}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward_in_chunks(model, *inputs, 2)
        return sum(size for place, size in kept.items() if place not in own)

    inputs_of_a_sample = sum(tensor[0].nbytes for tensor in batch(size=8))
    # Chunks are copies of rows of the inputs.
    assert held(16) - held(8) < 8 * (inputs_of_a_sample + 6_000)


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk is 0"):
        forward_in_chunks(build(), *batch(), 0)
