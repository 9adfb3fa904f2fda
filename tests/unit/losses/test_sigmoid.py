"""The sigmoid loss against the published sum over pairs in float64; chunks, several texts, precision, bad input."""

import math

import pytest
import torch
from tests import naive
from tests.golden_weights import GOLDEN_CONFIG

from clips_pipeline.losses import sigmoid
from clips_pipeline.losses.sigmoid import sigmoid_terms
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel, ClipsOutput


def features(rows=7, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    drawn = [naive.unit(torch.randn(rows, width, generator=generator, dtype=dtype)) for _ in range(3)]
    scalars = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (9.0, -8.0)]
    return [*(x.requires_grad_() for x in drawn), *scalars]


@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 7, 100])
def test_each_term_is_the_published_sum(chunk_rows):
    leaves = image, web, fragment, scale, bias = features()
    for term, text in zip(
        sigmoid_terms(image, [web, fragment], scale, bias, chunk_rows=chunk_rows), (web, fragment), strict=True
    ):
        expected = naive.sigmoid_term(image, text, scale, bias)
        assert float((term - expected).abs()) < 1e-12
        ours = torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
        for own, other in zip(ours, theirs, strict=True):
            assert float((own - other).abs().max()) < 1e-12


def test_gradients_by_differences():
    image, web, _, scale, bias = features(4, 3)
    assert torch.autograd.gradcheck(
        lambda *x: sigmoid_terms(x[0], [x[1]], x[2], x[3], chunk_rows=3)[0], (image, web, scale, bias)
    )


def test_rows_are_chunked_automatically(monkeypatch):
    image, web, _, scale, bias = features()
    (expected,) = sigmoid_terms(image, [web], scale, bias)
    rows = []
    real = sigmoid._losses_and_slopes
    monkeypatch.setattr(sigmoid, "MAX_LOGITS", 14)
    monkeypatch.setattr(sigmoid, "_losses_and_slopes", lambda z, d: rows.append(len(z)) or real(z, d))
    (term,) = sigmoid_terms(image, [web], scale, bias)
    assert rows == [2, 2, 2, 1]
    assert float(term) == pytest.approx(float(expected), rel=1e-14)


def test_initial_values_are_the_published_ones_and_the_model_has_the_bias_only_where_it_is_used():
    from dataclasses import replace

    torch.manual_seed(3)
    usual = ClipsModel(GOLDEN_CONFIG)
    torch.manual_seed(3)
    other = ClipsModel(replace(GOLDEN_CONFIG, contrastive="sigmoid"))
    assert float(other.logit_scale) == pytest.approx(math.log(10.0))
    assert float(other.logit_bias) == -10.0
    assert set(other.state_dict()) - set(usual.state_dict()) == {"logit_bias"}
    assert all(
        torch.equal(value, other.state_dict()[name])
        for name, value in usual.state_dict().items()
        if name != "logit_scale"
    )


def test_the_contrastive_loss_is_the_mean_over_the_texts():
    image, web, fragment, scale, bias = features()
    several = torch.stack([fragment, fragment.roll(1, 0)], dim=1)
    nothing = torch.zeros(0, 0)
    for fragments, texts in ((fragment, [fragment]), (several, list(several.unbind(1))), (web[:, :0], [])):
        for given in (None, bias):
            output = ClipsOutput(image, web, fragments, scale, nothing, nothing, given)
            found = clips_loss(output, None)
            terms = [
                naive.contrastive_term(image, x, scale) if given is None else naive.sigmoid_term(image, x, scale, bias)
                for x in [web, *texts]
            ]
            assert float(found.contrastive) == pytest.approx(float(sum(terms) / len(terms)), rel=1e-13)
            assert float(found.total) == float(found.contrastive)
            if not texts:
                assert found.contrastive_fragment is None


@pytest.mark.parametrize("bias", [None, torch.tensor(-10.0)])
def test_a_text_twice_is_no_negative_of_its_image(bias):
    """Two positives with the same text cost what one costs: neither is among the negatives of the other."""
    image, web, fragment, *_ = (x.detach().float() for x in features())
    scale, nothing = torch.tensor(10.0), torch.zeros(0, 0)
    once = clips_loss(ClipsOutput(image, web, fragment, scale, nothing, nothing, bias), None)
    twice = clips_loss(
        ClipsOutput(image, web, torch.stack([fragment, fragment], 1), scale, nothing, nothing, bias), None
    )
    assert float(twice.contrastive_fragment) == pytest.approx(float(once.contrastive_fragment), rel=1e-6)


def test_large_logits_are_finite_and_lower_precision_is_widened():
    image, web, _, _, bias = (x.detach().float() for x in features())
    scale = torch.tensor(1e4)
    (term,) = sigmoid_terms(image.bfloat16(), [web.bfloat16()], scale, bias)
    assert torch.isfinite(term)
    assert term.dtype == torch.float32


def test_bad_input_is_refused():
    image, web, _, scale, bias = features()
    with pytest.raises(ValueError, match=r"rows must match, found \(7, 5\), \(3, 5\)"):
        sigmoid_terms(image, [web[:3]], scale, bias)
    with pytest.raises(ValueError, match="chunk_rows is 0"):
        sigmoid_terms(image, [web], scale, bias, chunk_rows=0)
