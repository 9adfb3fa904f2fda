"""A whole batch: losses, every gradient and four optimizer steps, against the authors' JAX code."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.golden_weights import from_jax, golden, golden_model, images, jax_names

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.training.optimizer import adamw, decayed_names
from clips_pipeline.training.schedule import warmup_cosine


@pytest.fixture(scope="module")
def arrays(golden_dir):
    return golden(golden_dir, "full")


def run(model, arrays, image=None):
    ids = [torch.from_numpy(arrays[f"in/{name}"]).long() for name in ("labels1", "labels2", "caption_ids")]
    output = model(images(arrays["in/image"]) if image is None else image, *ids)
    return output, clips_loss(output, model.captioner.head.weight)


def test_features_logits_and_losses(arrays):
    model = golden_model(arrays)
    output, loss = run(model, arrays)
    for ours, theirs in (("image_BE", "image"), ("web_BE", "web"), ("fragment_BE", "sub")):
        expected = torch.from_numpy(arrays[f"out/{theirs}"])
        torch.testing.assert_close(getattr(output, ours), expected, rtol=0, atol=1e-5)
    valid = torch.from_numpy(arrays["in/cap_loss_mask"]).bool()
    labels = torch.from_numpy(arrays["in/autoreg_labels"]).long()
    assert output.caption_targets_N.tolist() == labels[valid].tolist()
    expected = torch.from_numpy(arrays["out/logits"])
    torch.testing.assert_close(model.captioner.head(output.caption_hidden_ND), expected[valid], rtol=0, atol=1e-5)
    naive = model.caption_logits(images(arrays["in/image"]), torch.from_numpy(arrays["in/labels1"]).long())
    torch.testing.assert_close(naive, expected, rtol=0, atol=1e-5)
    assert float(output.logit_scale) == pytest.approx(float(arrays["out/temperature"][0]), rel=2e-6)
    for ours, theirs in (("contrastive", "contrastive"), ("caption", "caption"), ("total", "total")):
        assert float(getattr(loss, ours)) == pytest.approx(float(arrays[f"out/loss_{theirs}"]), rel=2e-6)


@pytest.mark.parametrize(("part", "prefix"), [("total", "grad"), ("contrastive", "grad_contrastive")])
def test_every_gradient(arrays, part, prefix):
    model = golden_model(arrays)
    image = images(arrays["in/image"]).requires_grad_()
    _, loss = run(model, arrays, image)
    getattr(loss, part).backward()
    expected = images(arrays[f"{prefix}_in/image"])
    torch.testing.assert_close(image.grad, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    for name, parameter in model.named_parameters():
        if f"{prefix}/{jax_names(name)[0]}" not in arrays:
            # The contrastive loss does not reach the captioner.
            assert name.startswith("captioner.")
            assert part == "contrastive"
            assert parameter.grad is None
            continue
        expected = from_jax(arrays, prefix, name, parameter.shape)
        actual = torch.zeros_like(expected) if parameter.grad is None else parameter.grad
        # Query, key and value are one tensor here and three there; each has its own scale.
        pieces = len(jax_names(name))
        for actual_piece, piece in zip(*(torch.atleast_1d(x).chunk(pieces) for x in (actual, expected)), strict=True):
            largest = float(piece.abs().max())
            error = float((actual_piece - piece).abs().max())
            assert error <= max(1e-4 * largest, 1e-7), name


def test_which_parameters_decay(golden_dir):
    decay = json.loads((golden_dir / "decay.json").read_text())["weight_decay"]
    model = golden_model({})
    decayed = decayed_names(model)
    seen = set()
    for name, _ in model.named_parameters():
        seen |= set(jax_names(name))
        assert {decay[jax] for jax in jax_names(name)} == {0.2 if name in decayed else 0.0}, name
    assert seen == set(decay)


def test_four_optimizer_steps(golden_dir, arrays):
    steps = golden(golden_dir, "train_steps")
    model = golden_model(arrays)
    config = SimpleNamespace(peak_lr=1.024e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.2)
    optimizer = adamw(model, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(10, 2))
    for step in range(4):
        assert scheduler.get_last_lr()[0] == pytest.approx(float(steps["lr"][step]), rel=1e-6)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        _, loss = run(model, arrays)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        scheduler.step()
        parameters = list(model.parameters())
        norms = (
            norm(parameter.grad for parameter in parameters),
            norm(parameters),
            norm(parameter - old for parameter, old in zip(parameters, before, strict=True)),
        )
        log = [float(x) for x in (loss.contrastive, loss.caption, loss.total, *norms)]
        np.testing.assert_allclose(log, steps["log"][step], rtol=1e-4)

    entries, far = 0, 0
    for name, parameter in model.named_parameters():
        difference = (parameter.detach() - from_jax(steps, "param_after", name, parameter.shape)).abs()
        if name.endswith("attn.in_proj.bias"):
            difference.chunk(3)[1].zero_()  # the key's: no gradient in exact arithmetic, so Adam walks on noise
        assert float(difference.max()) <= 2.5e-3, name
        entries += difference.numel()
        far += int((difference > 1e-4).sum())
    assert far <= 0.001 * entries


def norm(tensors):
    return float(torch.stack([tensor.detach().square().sum() for tensor in tensors]).sum().sqrt())
