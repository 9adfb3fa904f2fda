"""Losses against naive references in float64; chunks do not change the result; bad input is refused."""

import re

import pytest
import torch
from tests import naive

from clips_pipeline.losses import contrastive
from clips_pipeline.losses.caption import caption_loss
from clips_pipeline.losses.contrastive import contrastive_loss
from clips_pipeline.losses.total import LossWeights, clips_loss
from clips_pipeline.models.clips import ClipsOutput

CHUNKS = (None, 1, 2, 3, 7, 100)


def features(rows=7, width=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    drawn = [naive.unit(torch.randn(rows, width, generator=generator, dtype=dtype)) for _ in range(3)]
    return [*(x.requires_grad_() for x in drawn), torch.tensor(9.0, dtype=dtype, requires_grad=True)]


def captions(rows=11, width=6, vocabulary=13):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("chunk_rows", CHUNKS)
def test_each_contrastive_term(chunk_rows):
    leaves = features()
    image, web, fragment, scale = leaves
    terms = contrastive_loss(*leaves, chunk_rows=chunk_rows)
    for term, text in zip(terms, (web, fragment), strict=True):
        expected = naive.contrastive_term(image, text, scale)
        assert float((term - expected).abs()) < 1e-12
        ours = torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
        theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_many_columns_are_chunked_automatically(monkeypatch):
    leaves = features()
    expected = contrastive_loss(*leaves)
    held = []

    def summed(rows_RE, columns_GE, target_R):
        held.append(rows_RE.shape[0] * columns_GE.shape[0])
        return plain(rows_RE, columns_GE, target_R)

    plain = contrastive._sum_of_cross_entropies
    monkeypatch.setattr(contrastive, "_sum_of_cross_entropies", summed)
    monkeypatch.setattr(contrastive, "MAX_LOGITS", 20)
    for ours, theirs in zip(contrastive_loss(*leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert max(held) == 14
    assert len(held) == 4 * 4


def test_a_fragment_is_no_negative_for_a_web_caption():
    image, web, fragment, scale = features()
    first, _ = contrastive_loss(image, web, fragment, scale)
    other, _ = contrastive_loss(image, web, fragment.detach().roll(1, 0), scale)
    assert float(first) == float(other)


def test_chance_and_perfect_match():
    rows = torch.eye(6)
    same = rows[:1].expand(6, -1)
    for term in contrastive_loss(same, same, same, torch.tensor(5.0)):
        assert float(term) == pytest.approx(torch.log(torch.tensor(6.0)).item())
    for term in contrastive_loss(rows, rows, rows, torch.tensor(100.0)):
        assert float(term) < 1e-6


@pytest.mark.parametrize("chunk", [1, 2, 4, 11, 1000])
def test_caption_value_and_gradients(chunk):
    hidden, weight, targets = captions()
    loss = caption_loss(hidden, weight, targets, chunk_size=chunk)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    assert float((loss - expected).abs()) < 1e-8
    # The gradients must include the weight of the loss in the total.
    ours = torch.autograd.grad(3 * loss, (hidden, weight))
    theirs = torch.autograd.grad(3 * expected, (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 1e-8


def test_caption_gradients_by_differences():
    hidden, weight, targets = captions(rows=3, width=2, vocabulary=4)
    torch.autograd.gradcheck(lambda h, w: caption_loss(h, w, targets, chunk_size=2), (hidden, weight))


def test_the_backward_pass_of_a_retained_graph_can_run_again():
    hidden, weight, targets = captions()
    expected = torch.autograd.grad(3 * torch.nn.functional.cross_entropy(hidden @ weight.T, targets), (hidden, weight))
    loss = 3 * caption_loss(hidden, weight, targets, chunk_size=4)
    for stays in (True, True, False):
        found = torch.autograd.grad(loss, (hidden, weight), retain_graph=stays)
        for a, b in zip(found, expected, strict=True):
            assert float((a - b).abs().max()) < 1e-8


def test_a_second_derivative_of_the_caption_loss_is_refused():
    hidden, weight, targets = captions()
    loss = caption_loss(hidden, weight, targets) ** 2
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_no_private_part_of_torch_is_used(repository):
    """Private parts change without notice. Their names in the files of `torch.save` (in quotes) stay.

    What PyTorch's own messages and pages name, since it has no public name, may be set in one file.
    """
    private = re.compile(r'(?<!")\btorch\._[A-Za-z]')
    settings = re.compile(r"torch\._dynamo\.config\.|torch\._C\._dynamo\.eval_frame")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (repository / "src").rglob("*.py")
        for line in path.read_text().splitlines()
        if private.search(line) and not (path.name == "compiled.py" and settings.search(line))
    ]
    assert found == []


def test_caption_gradients_are_computed_only_where_needed():
    hidden, weight, targets = captions()
    expected = torch.autograd.grad(caption_loss(hidden, weight, targets), hidden)[0]
    alone = torch.autograd.grad(caption_loss(hidden, weight.detach(), targets, chunk_size=4), hidden)[0]
    torch.testing.assert_close(alone, expected)
    with torch.no_grad():
        assert not caption_loss(hidden, weight, targets).requires_grad


def test_lower_precision_is_widened():
    image, web, fragment, scale = (x.detach() for x in features(dtype=torch.float32))
    exact = contrastive_loss(image, web, fragment, scale)
    halves = contrastive_loss(image.bfloat16(), web.bfloat16(), fragment.bfloat16(), scale)
    hidden, weight, targets = captions()
    caption = caption_loss(hidden.bfloat16(), weight.bfloat16(), targets)
    for loss, other in zip((*halves, caption), (*exact, caption_loss(hidden, weight, targets)), strict=True):
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(other), rel=0.05)


def test_no_tensor_of_all_logits_is_allocated():
    """The largest tensor of either loss holds one chunk."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    hidden, weight, targets = captions(rows=64, width=4, vocabulary=50)
    with Largest() as seen:
        caption_loss(hidden, weight, targets, chunk_size=8).backward()
    assert seen.size <= 8 * 50
    leaves = features(rows=64, width=4)
    with Largest() as seen:
        sum(contrastive_loss(*leaves, chunk_rows=4)).backward()
    assert seen.size <= 64 * 12  # the gathered rows of all three, no 64 x 64


def test_the_total_weighs_its_parts():
    image, web, fragment, scale = features()
    hidden, weight, targets = captions()
    output = ClipsOutput(image, web, fragment, scale, hidden, targets)
    parts = clips_loss(output, weight)
    assert float(parts.contrastive) == pytest.approx(float(parts.contrastive_web + parts.contrastive_fragment) / 2)
    assert float(parts.total) == pytest.approx(float(parts.contrastive + 2 * parts.caption))
    other = clips_loss(output, weight, LossWeights(0.5, 0.0), contrastive_chunk=2, caption_chunk=3)
    assert float(other.total) == pytest.approx(0.5 * float(parts.contrastive))
    assert set(parts._asdict()) == {"total", "contrastive", "contrastive_web", "contrastive_fragment", "caption"}


def test_bad_input_is_refused():
    image, web, fragment, scale = features()
    hidden, weight, targets = captions()
    with pytest.raises(ValueError, match="rows must match"):
        contrastive_loss(image, web[:3], fragment, scale)
    with pytest.raises(ValueError, match="chunk_rows is 0"):
        contrastive_loss(image, web, fragment, scale, chunk_rows=0)
    with pytest.raises(ValueError, match="11 hidden rows for 10 targets"):
        caption_loss(hidden, weight, targets[:-1])
    with pytest.raises(ValueError, match="chunk_size is 0"):
        caption_loss(hidden, weight, targets, chunk_size=0)
