"""Operation counts against PyTorch's counter on a real forward pass."""

import pytest
import torch
from tests.unit.models.test_exactness import batch, build
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clips_pipeline.models.flops import forward_flops


@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_one_sample(padding):
    model, inputs = build(padding, depth=2), batch(size=1, longest_target=6)
    _, web, fragment, target = inputs
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(*inputs)
        output.caption_hidden_ND @ model.captioner.head.weight.T
    lengths = [web.shape[1]] * 2 if padding == "attend" else [int((ids != 0).sum()) for ids in (web, fragment)]
    queries = int((target[:, 1:] != 0).sum())
    # Attention is padded to the longest row, which for one sample is itself.
    assert counter.get_total_flops() == forward_flops(model.config, *lengths, queries)
