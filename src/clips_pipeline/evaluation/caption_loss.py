"""How well the captioner predicts the synthetic captions of unseen images: cross-entropy per token.

The captioner sees the image and the web caption and predicts the synthetic caption (CLIPS paper, section 3). The metric
is the mean over all valid target tokens of a split, in nats, so long captions weigh more than short ones; `exp` of it
is the perplexity.

Legend of suffixes: B batch, C H W image, L context length, T target length, N valid targets, D width, V ids.
"""

import torch
from torch import Tensor

from clips_pipeline.models.clips import ClipsModel

_CHUNK_TOKENS = 1024


@torch.no_grad()
def caption_nats(
    model: ClipsModel, images_BCHW: Tensor, web_ids_BL: Tensor, target_ids_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each caption.

    Args:
        model: in evaluation mode.
        images_BCHW: as `encode_image` takes them.
        web_ids_BL: encoder rows of the web captions.
        target_ids_BT: target rows of the synthetic captions.

    Returns:
        (B,) float64 sums in nats, and (B,) numbers of valid target tokens (EOS counts, BOS and PAD do not).

    Raises:
        ValueError: the model has no captioner.
    """
    if model.captioner is None:
        raise ValueError("the model has no captioner, so there is no caption loss")
    # The fragment feeds the contrastive term only, which is not looked at here.
    output = model(images_BCHW, web_ids_BL, web_ids_BL[:, :0], target_ids_BT)
    tokens_B = (target_ids_BT[:, 1:] != model.config.text.pad_id).sum(dim=1)
    weight_VD = model.captioner.head.weight
    row_N = torch.repeat_interleave(torch.arange(len(tokens_B), device=tokens_B.device), tokens_B)
    nats_B = torch.zeros(len(tokens_B), dtype=torch.float64, device=tokens_B.device)
    for low in range(0, len(row_N), _CHUNK_TOKENS):
        chunk = slice(low, low + _CHUNK_TOKENS)
        logits_NV = (output.caption_hidden_ND[chunk] @ weight_VD.T).float()
        nats_N = torch.nn.functional.cross_entropy(logits_NV, output.caption_targets_N[chunk], reduction="none")
        nats_B.index_add_(0, row_N[chunk], nats_N.double())
    return nats_B, tokens_B
