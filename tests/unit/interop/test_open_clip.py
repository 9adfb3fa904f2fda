"""Conversion to and from open_clip: weights round trip, and features are equal."""

import dataclasses

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from tests import naive

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.open_clip import from_state_dict, to_state_dict
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.models.vision import sincos_2d

LIMIT = 1e-5
DEPTH = 2
# The published configurations but for the depth. The third number is the width of a vision head.
PUBLISHED = {
    "L/14-224": ("l14", 224, 64),
    "L/14-336": ("l14", 336, 64),
    "H/14-224": ("h14", 224, 80),
}


def theirs(name, *, random_table=False):
    size, image_size, head_width = PUBLISHED[name]
    config = SIZES[size]
    norm = {"eps": 1e-6}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=config.embed_dim,
        vision_cfg=CLIPVisionCfg(
            image_size=image_size,
            layers=DEPTH,
            width=config.vision.width,
            head_width=head_width,
            patch_size=14,
            no_ln_pre=True,
            pool_type="avg",
            final_ln_after_pool=True,
            norm_kwargs=norm,
        ),
        text_cfg=CLIPTextCfg(
            context_length=80,
            vocab_size=32_000,
            width=config.text.width,
            heads=config.text.heads,
            layers=DEPTH,
            no_causal_mask=True,
            pool_type="last",
            act_kwargs={"approximate": "tanh"},
            norm_kwargs=norm,
        ),
    ).eval()
    with torch.no_grad():
        # open_clip initializes biases and norms to zero and one, which would hide errors, so randomize them.
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if random_table:
            model.visual.positional_embedding.add_(0.1)
        else:
            side = image_size // 14
            model.visual.positional_embedding.copy_(sincos_2d(side, side, config.vision.width))
    return model, image_size


def inputs(image_size):
    generator = torch.Generator().manual_seed(1)
    ids = naive.rows(generator, 3, 80, 60, cls=101, vocab=30_522)
    return torch.randn(2, 3, image_size, image_size, generator=generator), ids


@torch.no_grad()
def differences(peer, ours, image_size):
    images, ids = inputs(image_size)
    image = (peer.encode_image(images, normalize=True) - ours.encode_image(images)).abs().max()
    text = (peer.encode_text(ids, normalize=True) - ours.encode_text(ids)).abs().max()
    return float(image), float(text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_round_trip(name):
    peer, image_size = theirs(name)
    ours = from_state_dict(peer.state_dict(), image_size)
    size = SIZES[PUBLISHED[name][0]]
    for part in ("vision", "text"):
        expected = dataclasses.replace(getattr(size, part), depth=DEPTH)
        if part == "vision":
            expected = dataclasses.replace(expected, image_size=image_size)
        assert getattr(ours.config, part) == expected
    assert max(differences(peer, ours, image_size)) < LIMIT

    back = to_state_dict(ours)
    expected = peer.state_dict()
    assert back.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(back[key], tensor, rtol=0, atol=0)

    # Convert from our model with other weights to theirs.
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.02).add_(0.01 * parameter.roll(1))
    assert min(differences(peer, ours, image_size)) > 100 * LIMIT
    peer.load_state_dict(to_state_dict(ours), strict=True)
    assert max(differences(peer, ours, image_size)) < LIMIT


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return ClipsModel(SIZES["tiny"])


def test_a_trained_position_table_is_stored():
    peer, image_size = theirs("L/14-224", random_table=True)
    ours = from_state_dict(peer.state_dict(), image_size)
    assert ours.config.vision.positions == "stored"
    assert max(differences(peer, ours, image_size)) < LIMIT
    table = to_state_dict(ours)["visual.positional_embedding"]
    torch.testing.assert_close(table, peer.visual.positional_embedding.detach(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="fits 16 x 16 patches, the image has 24 x 24"):
        ours.encode_image(torch.zeros(1, 3, 336, 336))
    with pytest.raises(ConfigError, match=r"visual.positional_embedding is \(257, 1024\), expected \(577, 1024\)"):
        from_state_dict(peer.state_dict(), 336)


def test_another_image_size_needs_no_other_weights(tiny):
    larger = from_state_dict(to_state_dict(tiny), 96)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(larger.encode_image(images), tiny.encode_image(images))


def test_tiny_round_trip(tiny):
    back = from_state_dict(to_state_dict(tiny), 64)
    assert back.config.vision == tiny.config.vision
    assert back.config.text == tiny.config.text
    for part in ("vision", "text"):
        ours, theirs = getattr(back, part).state_dict(), getattr(tiny, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(back.logit_scale, tiny.logit_scale)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in back.captioner.parameters())


def test_half_precision_weights_are_read(tiny):
    half = {key: tensor.half() for key, tensor in to_state_dict(tiny).items()}
    back = from_state_dict(half, 64)
    assert back.config.vision.positions == "computed"
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("visual.ln_post.bias"), "missing visual.ln_post.bias"),
        (lambda d: d.pop("token_embedding.weight"), "missing token_embedding.weight"),
        (lambda d: d.pop("visual.positional_embedding"), "missing visual.positional_embedding"),
        (lambda d: d.update({"visual.ln_pre.weight": torch.zeros(1)}), "unexpected visual.ln_pre.weight"),
        (
            lambda d: d.update({"text_projection": torch.zeros(5, 5)}),
            r"text_projection is \(5, 5\), expected \(128, 128\)",
        ),
        (lambda d: d.update({"visual.proj": torch.zeros(5)}), "visual.proj is .*expected 2 dimensions"),
        (
            lambda d: [d.pop(key) for key in list(d) if "visual.transformer.resblocks.1.mlp." in key],
            "missing visual.transformer.resblocks.1.mlp",
        ),
    ],
)
def test_other_layouts_are_refused(tiny, change, message):
    state = to_state_dict(tiny)
    change(state)
    with pytest.raises(ConfigError, match=message):
        from_state_dict(state, 64)


def test_heads_can_be_given_and_must_divide(tiny):
    state = to_state_dict(tiny)
    assert from_state_dict(state, 64, vision_heads=4, text_heads=8).config.text.heads == 8
    with pytest.raises(ConfigError, match="cannot be split into 3 heads"):
        from_state_dict(state, 64, vision_heads=3)
    with pytest.raises(ConfigError, match="not a multiple"):
        from_state_dict(state, 65)
