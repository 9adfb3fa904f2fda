"""The public interface of the model: shapes, refused inputs, precision, images that are not square."""

import dataclasses

import pytest
import torch
from tests import naive
from tests.golden_weights import GOLDEN_CONFIG
from torch.utils._python_dispatch import TorchDispatchMode

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ClipsModel(GOLDEN_CONFIG)


def inputs(size=4):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(size, 3, 32, 32, generator=generator),
        naive.rows(generator, size, 12, 8, cls=101),
        naive.rows(generator, size, 12, 8, cls=101),
        naive.rows(generator, size, 9, 6, cls=None),
    )


def test_features_have_length_one(model):
    images, web, _, _ = inputs()
    for features in (model.encode_image(images), model.encode_text(web)):
        assert features.shape == (4, 24)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_forward_agrees_with_the_encoders(model):
    images, web, fragment, target = inputs()
    output = model(images, web, fragment, target)
    torch.testing.assert_close(output.image_BE, model.encode_image(images))
    torch.testing.assert_close(output.web_BE, model.encode_text(web))
    torch.testing.assert_close(output.fragment_BE, model.encode_text(fragment))
    assert float(output.logit_scale) == pytest.approx(1 / 0.07)


def test_images_need_not_be_square(model):
    wide = torch.randn(2, 3, 24, 40)
    assert model.vision(wide).tokens_BPD.shape == (2, 15, 48)
    # A transposed grid must give another result: the table distinguishes x and y.
    upright = model.encode_image(wide.transpose(2, 3))
    assert float((model.encode_image(wide) - upright).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, torch.zeros(4, 3, 30, 32)), "not made of whole 8-pixel patches"),
        ((1, torch.zeros(4, 10, dtype=torch.long)), "the model reads 12"),
        ((3, torch.ones(4, 15, dtype=torch.long)), "14 target positions for 9 queries"),
    ],
)
def test_wrong_shapes_are_refused(model, change, message):
    arguments = list(inputs())
    arguments[change[0]] = change[1]
    if change[0] == 1:
        arguments[2] = change[1]
    with pytest.raises(ValueError, match=message):
        model(*arguments)


class ProductRecorder(TorchDispatchMode):
    """Records the dtype of matrix products, by the shape of the second factor."""

    def __init__(self):
        super().__init__()
        self.kinds = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.kinds.setdefault(tuple(args[-1].shape), set()).add(made.dtype)
        return made


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_bfloat16_autocast_keeps_norms_heads_and_losses_in_float32(padding):
    torch.manual_seed(0)
    config = dataclasses.replace(GOLDEN_CONFIG, text=dataclasses.replace(GOLDEN_CONFIG.text, padding=padding))
    model = ClipsModel(config)
    kinds = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            module.register_forward_hook(lambda _m, _i, out, name=name: kinds.update({name: out.dtype}))
    arguments = inputs()
    exact = clips_loss(model(*arguments), model.captioner.head.weight)
    kinds.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16), ProductRecorder() as products:
        output = model(*arguments)
        loss = clips_loss(output, model.captioner.head.weight)
    for layer in (model.vision.blocks[0].mlp.c_fc, model.captioner.blocks[0].mlp.c_proj):
        assert products.kinds[tuple(layer.weight.T.shape)] == {torch.bfloat16}
    full = ("vision.norm", "vision.head", "text.norm", "text.head", "captioner.norm")
    for name in (*full, "captioner.image_projection", "captioner.text_projection"):
        assert kinds[name] == torch.float32, name
    assert {tensor.dtype for tensor in output if tensor is not None and tensor.is_floating_point()} == {torch.float32}
    assert {part.dtype for part in loss} == {torch.float32}
    for part, other in zip(loss, exact, strict=True):
        assert float(part.detach()) == pytest.approx(float(other.detach()), rel=0.02)


def test_a_model_converted_to_bfloat16_gives_float32_features():
    torch.manual_seed(0)
    model = ClipsModel(GOLDEN_CONFIG)
    images, web, fragment, target = inputs()
    exact = model.encode_image(images)
    half = model.bfloat16()
    output = half(images.bfloat16(), web, fragment, target)
    assert output.image_BE.dtype == torch.float32
    torch.testing.assert_close(output.image_BE, exact, rtol=0, atol=0.05)
    assert torch.isfinite(clips_loss(output, half.captioner.head.weight).total)


def test_tables_made_in_inference_mode_serve_training(model):
    images = inputs()[0]
    with torch.inference_mode():
        model.encode_image(images)
    model.encode_image(images).sum().backward()
    assert model.vision.cls_D.grad is not None


def test_tiny_learns_a_batch():
    """A few steps on one batch of eight halve the caption loss relative to chance, and beat chance in the contrastive loss."""
    torch.manual_seed(0)
    config = dataclasses.replace(SIZES["tiny"], text=dataclasses.replace(SIZES["tiny"].text, padding="mask"))
    model = ClipsModel(config)
    generator = torch.Generator().manual_seed(0)
    arguments = (
        torch.randn(8, 3, 64, 64, generator=generator),
        naive.rows(generator, 8, 80, 6, cls=101, vocab=1000),
        naive.rows(generator, 8, 80, 6, cls=101, vocab=1000),
        naive.rows(generator, 8, 128, 12, cls=None, vocab=1000),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(15):
        loss = clips_loss(model(*arguments), model.captioner.head.weight)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        history.append(loss)
    assert float(history[-1].contrastive) < 0.5 * float(history[0].contrastive)
    assert float(history[-1].caption) < 0.7 * float(history[0].caption)
