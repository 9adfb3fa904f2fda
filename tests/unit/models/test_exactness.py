"""Optimized paths against a naive implementation, in float64: values and every gradient."""

import dataclasses
import itertools

import pytest
import torch
from tests import naive
from tests.golden_weights import GOLDEN_CONFIG

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.rows.layout import step_layout

LIMIT = 1e-6
VARIANTS = list(itertools.product(("attend", "mask"), ("before_norm", "after_norm")))


def build(padding="attend", condition="before_norm", **captioner):
    config = dataclasses.replace(
        GOLDEN_CONFIG,
        text=dataclasses.replace(GOLDEN_CONFIG.text, padding=padding),
        captioner=dataclasses.replace(GOLDEN_CONFIG.captioner, condition=condition, **captioner),
    )
    torch.manual_seed(1)
    model = ClipsModel(config).double()
    with torch.no_grad():
        # Biases differ from 0 and norms from 1, so that a missing one is noticed.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(longest_text=5, longest_target=4, targets=9, size=3):
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(size, 3, 32, 32, generator=generator, dtype=torch.float64),
        naive.rows(generator, size, 12, 3, cls=101),
        naive.rows(generator, size, 12, longest_text, cls=101),
        naive.rows(generator, size, targets, longest_target, cls=None),
    )


def compare(model, inputs):
    parameters = dict(model.named_parameters())
    output = model(*inputs)
    parts = clips_loss(output, model.captioner.head.weight)
    expected = naive.losses(model, *inputs)
    assert float((torch.stack([parts.contrastive, parts.caption]) - expected).abs().max()) < LIMIT
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gradients = torch.autograd.grad(parts.total, parameters.values())
    expected_gradients = torch.autograd.grad((expected * weights).sum(), parameters.values())
    for name, gradient, other in zip(parameters, gradients, expected_gradients, strict=True):
        assert float((gradient - other).abs().max()) < LIMIT, name


@pytest.mark.parametrize(("padding", "condition"), VARIANTS)
def test_loss_and_every_gradient(padding, condition):
    compare(build(padding, condition), batch())


@pytest.mark.parametrize(("longest_text", "longest_target"), [(9, 7), (1, 1)])
def test_full_rows_and_shortest_rows(longest_text, longest_target):
    compare(build("mask"), batch(longest_text, longest_target))


def test_targets_shorter_than_the_queries():
    compare(build("mask"), batch(targets=6, longest_target=4))


def test_a_captioner_of_one_block():
    compare(build("mask", depth=1), batch())


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_the_feature_alone_is_that_of_the_whole_pass(padding):
    model, (_, _, fragment, _) = build(padding), batch(longest_text=9)
    for depth in (len(model.text.blocks), 1):
        model.text.blocks = model.text.blocks[:depth]
        whole = model.text(fragment).feature_BE
        torch.testing.assert_close(model.text.feature(fragment), whole, rtol=0, atol=1e-12)


def test_a_batch_without_any_target_has_zero_loss_and_zero_gradients():
    model = build("mask")
    images, web, fragment, target = batch()
    output = model(images, web, fragment, torch.zeros_like(target))
    parts = clips_loss(output, model.captioner.head.weight)
    assert output.caption_hidden_ND.shape == (0, 32)
    assert float(parts.caption) == 0.0
    parts.caption.backward()
    for name, parameter in model.captioner.named_parameters():
        # Data-parallel training would wait forever for a gradient that is None.
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@pytest.mark.parametrize("condition", ["before_norm", "after_norm"])
def test_padded_columns_change_nothing_when_masked(condition):
    """Rows trimmed to the longest of the batch give the same features, hidden states and gradients as full rows."""
    model = build("mask", condition)
    images, web, fragment, target = batch(longest_text=4)
    outputs = []
    for multiple in (1, 11):
        layout = step_layout(model.config, web, fragment, target, multiple=multiple)
        (chunk,) = layout.chunks()
        assert chunk.texts[0].packing.keep_BS.shape[1] == (6 if multiple == 1 else 12)
        output = model(images, web, fragment, target, layout=layout)
        total = clips_loss(output, model.captioner.head.weight).total
        outputs.append((output, torch.autograd.grad(total, list(model.parameters()))))
    (trimmed, trimmed_gradients), (whole, whole_gradients) = outputs
    for a, b in zip((*trimmed, *trimmed_gradients), (*whole, *whole_gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_trimming_happens_only_under_the_mask():
    _, web, _, _ = batch()
    assert build("mask").text(web).tokens_BSD.shape[1] == 5
    assert build("attend").text(web).tokens_BSD.shape[1] == 11


def test_masked_features_do_not_depend_on_the_rest_of_the_batch():
    model = build("mask")
    _, web, fragment, _ = batch(longest_text=9)
    together = model.encode_text(torch.cat([web, fragment]))
    torch.testing.assert_close(together[:3], model.encode_text(web), rtol=0, atol=1e-12)


def test_attended_padding_matters():
    _, web, _, _ = batch()
    assert float((build("attend").encode_text(web) - build("mask").encode_text(web)).abs().max()) > 1e-3


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_only_what_is_needed_is_computed(padding):
    """Blocks compute tokens without padding and queries up to each row's last target; the head gets valid positions only."""
    model = build(padding)
    seen = []
    inner = model.captioner.blocks[0].prefix_causal

    def noted(prefix, queries_MD, *rest):
        seen.extend([prefix.numel() // prefix.shape[-1], len(queries_MD)])
        return inner(prefix, queries_MD, *rest)

    model.captioner.blocks[0].prefix_causal = noted
    images, web, fragment, target = batch(longest_target=4)
    output = model(images, web, fragment, target)
    valid = target[:, 1:] != 0
    web_tokens = int((web[:, :-1] != 0).sum()) if padding == "mask" else 3 * 11
    assert seen == [3 * 16 + web_tokens, int(valid.sum())]
    assert output.caption_hidden_ND.shape[0] == int(valid.sum())
    assert output.caption_targets_N.tolist() == target[:, 1:][valid].tolist()


def test_nothing_is_detached():
    """The caption loss has gradients in the vision tower and, through the web caption only, in the text tower."""
    model = build()
    images, web, fragment, target = batch()
    images.requires_grad_()
    output = model(images, web, fragment, target)
    clips_loss(output, model.captioner.head.weight).caption.backward()
    assert images.grad.any()
    gradient = model.text.token_embedding.weight.grad
    only_fragment = set(fragment.flatten().tolist()) - set(web.flatten().tolist())
    assert only_fragment
    assert gradient[web[0, 1]].any()
    assert not gradient[sorted(only_fragment)].any()
