"""Plain blocks against the naive model and the fused functions; what may hang on modules; where attention and the host go.

The path of a GPU runs here in two ways: on the CPU with a slow twin of the flash kernel, for its values, and on the meta device,
which has shapes and no data, so that whatever would make the host wait for the device raises.
"""

import dataclasses
import itertools
from functools import partial

import pytest
import torch
from tests.unit.models.test_exactness import VARIANTS, batch, build, compare
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from clips_pipeline.data.images.transforms import normalize
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import keep_hidden_layers, recompute_blocks, use_implementation
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.models.rows import attention
from clips_pipeline.models.rows.layout import step_layout

PADDINGS = ("attend", "mask")
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def flash_twin(q, k, v, starts_q, starts_k, longest_q, longest_k, dropout, causal, debug):
    """The kernel's mathematics, row by row: a causal query attends to all keys before its place from the end."""
    assert (dropout, debug) == (0.0, False)
    if starts_q is None:
        made = []
        for own in zip(q, k, v, strict=True):
            sizes = len(own[0]), len(own[1])
            starts = (torch.tensor([0, size]) for size in sizes)
            made += flash_twin(*own, *starts, *sizes, dropout, causal, debug)
        return (torch.stack(made),)
    assert starts_q.numel() == starts_k.numel()
    assert (int(starts_q[-1]), int(starts_k[-1])) == (len(q), len(k))
    out = []
    for (a, b), (c, d) in zip(
        itertools.pairwise(starts_q.tolist()), itertools.pairwise(starts_k.tolist()), strict=True
    ):
        assert b - a <= longest_q
        assert d - c <= longest_k
        scores = torch.einsum("qhk,shk->hqs", q[a:b], k[c:d]) / q.shape[-1] ** 0.5
        if causal:
            hidden = torch.ones(b - a, d - c, dtype=torch.bool).triu(1 + (d - c) - (b - a))
            scores = scores.masked_fill(hidden, float("-inf"))
        out.append(torch.einsum("hqs,shk->qhk", scores.softmax(-1), v[c:d]))
    return (torch.cat(out),)


@pytest.fixture(params=["padded", "flash"])
def plain(request, monkeypatch):
    """Build plain models, whose rows of unequal length go to padded attention, or to the kernel's slow twin."""
    if request.param == "flash":
        monkeypatch.setattr(attention, "has_flash", lambda q: True)
        monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_twin)

    def made(*args, **options):
        model = build(*args, **options)
        use_implementation(model, "plain")
        return model

    return made


def gradients(model, output):
    total = clips_loss(output, model.captioner.head.weight).total
    return [total, *torch.autograd.grad(total, list(model.parameters()))]


def equal(ours, theirs, limit=1e-10):
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) < limit


@pytest.mark.parametrize(("padding", "condition"), VARIANTS)
def test_loss_and_every_gradient_of_the_naive_model(plain, padding, condition):
    compare(plain(padding, condition), batch())
    compare(plain(padding, condition, depth=1), batch(longest_text=9, longest_target=7))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_they_equal_the_fused_functions_also_in_chunks(plain, padding, chunk):
    inputs = batch(longest_text=8, longest_target=7, size=5)
    found = []
    for model in (plain(padding), build(padding)):
        output = model(*inputs) if chunk is None else forward_in_chunks(model, *inputs, chunk)
        found.append(gradients(model, output))
    equal(*found)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("policy", [recompute_blocks, keep_hidden_layers])
def test_recomputation_and_kept_layers_change_nothing(padding, policy):
    inputs = batch(longest_text=8, longest_target=7)
    for implementation in ("auto", "plain"):
        found = []
        for change in (False, True):
            model = build(padding)
            use_implementation(model, implementation)
            policy(model, change)
            found.append(gradients(model, model(*inputs)))
        equal(*found, limit=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_batch_without_any_target(plain, padding):
    model = plain(padding)
    images, web, fragment, target = batch()
    output = model(images, web, fragment, torch.zeros_like(target))
    assert output.caption_hidden_ND.shape[0] == 0
    clips_loss(output, model.captioner.head.weight).caption.backward()
    assert not any(parameter.grad is None or parameter.grad.any() for parameter in model.captioner.parameters())


@pytest.mark.parametrize("multiple", [1, 4, 16])
@pytest.mark.parametrize("padding", PADDINGS)
def test_rounded_shapes_change_nothing(plain, padding, multiple):
    inputs = batch(longest_text=5, longest_target=3)
    found = []
    for model in (plain(padding), build(padding)):
        layout = step_layout(model.config, *inputs[1:], multiple=multiple)
        found.append(gradients(model, model(*inputs, layout=layout)))
    (chunk,) = layout.chunks()
    assert chunk.captions.packing.keep_BS.shape[1] == min(-(-4 // multiple) * multiple, 8)
    equal(*found)
    equal(found[0], gradients(model, model(*inputs)))


class _Adapter(nn.Module):
    """A low-rank addition to a linear layer, as LoRA makes it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False).double()
        self.up = nn.Linear(2, base.out_features, bias=False).double()

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", ["attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_an_adapter_equals_its_merged_weight(padding, name):
    """In every tower, at the first block and at the last, whose tail alone is computed."""
    adapted, merged, inputs = build(padding), build(padding), batch()
    for tower in ("vision", "text", "captioner"):
        for block, other in zip(getattr(adapted, tower).blocks, getattr(merged, tower).blocks, strict=True):
            parent, _, leaf = name.rpartition(".")
            adapter = _Adapter(block.get_submodule(name))
            setattr(block.get_submodule(parent), leaf, adapter)
            with torch.no_grad():
                other.get_submodule(name).weight.add_(adapter.up.weight @ adapter.down.weight)
    outputs = [clips_loss(model(*inputs), model.captioner.head.weight).total for model in (adapted, merged)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    outputs[0].backward()
    assert adapted.text.blocks[0].get_submodule(name).down.weight.grad.any()


@pytest.mark.parametrize("padding", PADDINGS)
def test_hooks_inside_a_block_run(padding):
    model, inputs, seen = build(padding), batch(), []
    expected = model(*inputs)
    for tower in (model.vision, model.text, model.captioner):
        for block in tower.blocks:
            for part in (block.attn.in_proj, block.mlp.c_fc):
                part.register_forward_hook(lambda module, args, output: seen.append(module))
    found = model(*inputs)
    # The text tower runs twice.
    blocks = len(model.vision.blocks) + 2 * len(model.text.blocks) + len(model.captioner.blocks)
    assert len(seen) == 2 * blocks
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("part", ["image", "text"])
def test_torch_export(part):
    model = build().float().eval()
    images, web, _, _ = batch()
    argument = images.float() if part == "image" else web

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.encode_image(x) if part == "image" else self.model.encode_text(x)

    exported = torch.export.export(Encoder(), (argument,)).module()
    torch.testing.assert_close(exported(argument), Encoder()(argument))


@pytest.fixture
def masks(monkeypatch):
    """The masks of all calls of PyTorch's attention; also of those in the threads of a backward pass."""
    seen, function = [], torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, attn_mask=None):
        seen.append(attn_mask)
        return function(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    return seen


_WAITS = (
    "nonzero",
    "_local_scalar_dense",
    "masked_select",
    "_unique2",
    "equal",
    "is_nonzero",
    "repeat_interleave.Tensor",
)


class _Operations(TorchDispatchMode):
    """Counts calls of the flash kernel, and notes the operators that make the host wait."""

    def __init__(self):
        super().__init__()
        self.flash, self.waiting = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.name(), kwargs or {}
        self.flash += name == "aten::_flash_attention_forward"
        if name in ("aten::_to_copy", "aten::copy_"):
            source, target = (args[0], kwargs.get("device")) if name == "aten::_to_copy" else (args[1], args[0].device)
            blocking = not (kwargs.get("non_blocking") or args[2:])
            if source.device.type == "cpu" and target is not None and target.type != "cpu" and blocking:
                self.waiting.append(name)
        flags = name == "aten::index.Tensor" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if flags or name in {f"aten::{wait}" for wait in _WAITS}:
            self.waiting.append(name)
        return function(*args, **kwargs)


def small(padding, inputs="queries"):
    config = build(padding).config
    captioner = dataclasses.replace(config.captioner, inputs=inputs)
    return dataclasses.replace(config, captioner=captioner)


@pytest.mark.parametrize("reads", ["queries", "tokens"])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_step_on_the_meta_device_never_waits_and_attends_by_flash_alone(padding, chunk, reads, masks):
    """Layout made on the CPU, then forward, losses, backward and AdamW without data: a value that the host needs would raise."""
    config = small(padding, reads)
    with torch.device("meta"):
        model = ClipsModel(config).to(torch.bfloat16)
    inputs = batch(size=5)
    layout = step_layout(config, *inputs[1:], chunk=chunk).to("meta")
    images, *ids = (tensor.to("meta") for tensor in inputs)
    images = images.to(torch.uint8)
    # The first step copies constants to the device: mean, deviation and the table of positions.
    model.vision.embed(normalize(images, MEAN, STD).to(torch.bfloat16))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.device.type == "meta"], foreach=True)
    with _Operations() as seen:
        arguments = normalize(images, MEAN, STD).to(torch.bfloat16), *ids
        more = [] if chunk is None else [chunk]
        output = (model if chunk is None else partial(forward_in_chunks, model))(*arguments, *more, layout=layout)
        clips_loss(output, model.captioner.head.weight).total.backward()
    # Its counts of steps are on the host; a value of the device would raise here too.
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    # Each chunk but the last runs twice.
    runs = 1 if chunk is None else 2 * 3 - 1
    vision, texts, blocks = len(model.vision.blocks), 2 * len(model.text.blocks), len(model.captioner.blocks)
    # Prefix and queries attend in every captioner block but the last, which has no prefix.
    flash, prefixes = blocks, blocks - 1
    if padding == "attend":
        # [CLS] of a fragment, of which the last block computes no more.
        flash, texts = flash + 1, texts - 1
    if padding == "mask":
        flash, texts = flash + texts, 0
        if reads == "queries":
            flash, prefixes = flash + prefixes, 0
    assert seen.flash == runs * flash
    assert masks == [None] * (runs * (vision + texts + prefixes))
    assert not seen.waiting


def test_the_counter_sees_a_mask_and_a_wait(masks):
    """The counter of the test above can fail."""
    model = build("mask")
    use_implementation(model, "plain")
    with _Operations() as seen:
        model(*batch())
    assert sum(mask is not None for mask in masks) == 2 * len(model.text.blocks) + 2 * len(model.captioner.blocks) - 1
    assert "aten::nonzero" in seen.waiting
