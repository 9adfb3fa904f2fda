"""Towers and captioner against numbers computed with the authors' JAX code."""

import numpy as np
import pytest
import torch
from tests.golden_weights import golden, golden_model, images

from clips_pipeline.models.precision import unit_rows
from clips_pipeline.models.rows.layout import CaptionRows
from clips_pipeline.models.rows.masks import prefix_causal_mask
from clips_pipeline.models.rows.packing import Packing
from clips_pipeline.models.vision import sincos_2d

MID = {"rtol": 0.0, "atol": 2.0e-5}
OUT = {"rtol": 0.0, "atol": 1.0e-5}


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, torch.from_numpy(np.asarray(expected)), **tolerance)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def block_outputs(blocks, kind="forward"):
    """Return a list that collects the output of each block while the model runs."""
    outputs = []
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


def test_position_tables(golden_dir):
    tables = golden(golden_dir, "posemb")
    assert len(tables) == 5
    for key, table in tables.items():
        height, width, channels = map(int, key.split("x"))
        close(sincos_2d(height, width, channels), table, MID)


def test_vision_tower(golden_dir):
    arrays = golden(golden_dir, "vision")
    tower = golden_model(arrays).vision
    mid = block_outputs(tower.blocks)
    image = images(arrays["in/image"])
    embedded = tower.embed(image)
    table = sincos_2d(4, 4, 48)
    close((embedded - table)[:, 1:].reshape(4, 4, 4, 48), arrays["mid/embedding"], MID)
    out = tower(image)
    for number, output in enumerate(mid):
        close(output, arrays[f"mid/Transformer/encoderblock_{number}"], MID)
    assert len(mid) == 2
    close(out.tokens_BPD, arrays["out/tokens"], MID)
    close(out.pooled_BD, arrays["out/pooled"], MID)
    close(out.feature_BE, arrays["out/feature"], OUT)
    close(unit_rows(out.feature_BE), arrays["out/feature_normalised"], OUT)


@pytest.mark.parametrize("other", ["rect", "resized"])
def test_other_image_sizes_need_no_other_parameters(golden_dir, other):
    arrays = golden(golden_dir, "vision")
    out = golden_model(arrays).vision(images(arrays[f"{other}/in/image"]))
    close(out.tokens_BPD, arrays[f"{other}/out/tokens"], MID)
    close(out.feature_BE, arrays[f"{other}/out/feature"], OUT)


def test_text_tower(golden_dir):
    arrays = golden(golden_dir, "text")
    tower = golden_model(arrays).text
    mid = block_outputs(tower.blocks)
    out = tower(torch.from_numpy(arrays["in/ids"]).long())
    for number, output in enumerate(mid):
        close(output, arrays[f"mid/Transformer/encoderblock_{number}"], MID)
    assert len(mid) == 2
    close(out.tokens_BSD, arrays["out/tokens"], MID)
    close(out.pooled_BD, arrays["out/pooled"], MID)
    close(out.feature_BE, arrays["out/feature"], OUT)
    close(unit_rows(out.feature_BE), arrays["out/feature_normalised"], OUT)


@pytest.mark.parametrize("prefix", ["", "random/"])
def test_captioner_logits(golden_dir, prefix):
    arrays = golden(golden_dir, "captioner")
    captioner = golden_model(arrays).captioner
    image, text = (torch.from_numpy(arrays[f"{prefix}in/{which}_tokens"]) for which in ("image", "text"))
    every = CaptionRows.all(4, 9, image.device)
    logits = captioner.head(captioner(image, text, every)).unflatten(0, (4, 9))
    close(logits, arrays[f"{prefix}out/logits"], OUT)


def apply_captioner_block(block, x_BSD, prefix):
    """Apply a captioner block to rows without padding, with prefix and queries in one tensor."""
    queries_BQD = x_BSD[:, prefix:]
    every = Packing.of(torch.ones(queries_BQD.shape[:2], dtype=torch.bool))
    parts = block.prefix_causal(
        x_BSD[:, :prefix], queries_BQD.flatten(0, 1), None, every, prefix_causal_mask(prefix, None, every, x_BSD.dtype)
    )
    return torch.cat([parts[0], parts[1].view_as(queries_BQD)], dim=1)


def test_captioner_inside(golden_dir):
    arrays = golden(golden_dir, "captioner")
    captioner = golden_model(arrays).captioner
    image, text = (torch.from_numpy(arrays[f"in/{which}_tokens"]) for which in ("image", "text"))
    image_BPD, text_BSD = captioner.image_projection(image), captioner.text_projection(text)
    close(image_BPD, arrays["mid/image_projection_layer"], MID)
    close(text_BSD, arrays["mid/text_projection_layer"], MID)
    x_BSD = torch.cat([image_BPD, text_BSD, captioner.queries_QD.expand(4, -1, -1)], dim=1)
    for number, block in enumerate(captioner.blocks):
        x_BSD = apply_captioner_block(block, x_BSD, 27)
        close(x_BSD, arrays[f"mid/Transformer/encoderblock_{number}"], MID)
    every = CaptionRows.all(4, 9, image.device)
    close(captioner(image, text, every).unflatten(0, (4, 9)), arrays["mid/decoder_norm"], MID)


def test_captioner_attends_exactly_where_the_authors_mask_allows(golden_dir):
    """The inputs that each output row depends on, found by gradients, are those of the authors' mask."""
    arrays = golden(golden_dir, "captioner")
    block = golden_model(arrays).captioner.blocks[0]
    mask = arrays["out/mask"].astype(bool)
    with torch.enable_grad():
        x_BSD = torch.randn(1, 36, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
        out = apply_captioner_block(block, x_BSD, 27)
        reads = []
        for row in range(36):
            (gradient,) = torch.autograd.grad(out[0, row].square().sum(), x_BSD, retain_graph=True)
            reads.append((gradient[0].abs().amax(dim=1) > 0).numpy())
    np.testing.assert_array_equal(np.stack(reads), mask)
