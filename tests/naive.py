"""Naive reference implementation of model and losses: dense masks, all positions, all logits.

Shapes: B batch, L context, S whole captioner sequence, P prefix, Q queries, T target length, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.blocks import Block
from clips_pipeline.models.clips import ClipsModel


def block(block: Block, x_BSD: Tensor, allowed_BSS: Tensor) -> Tensor:
    """Pre-norm block with an explicit softmax over an explicit mask."""
    attn, width = block.attn, x_BSD.shape[-1]
    h_BSD = functional.layer_norm(x_BSD, (width,), block.ln_1.weight, block.ln_1.bias, 1e-6)
    q, k, v = (
        (h_BSD @ w.T + b).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for w, b in zip(attn.in_proj.weight.chunk(3), attn.in_proj.bias.chunk(3), strict=True)
    )
    scores = q @ k.transpose(-1, -2) / (width // attn.heads) ** 0.5
    scores = scores.masked_fill(~allowed_BSS[:, None], float("-inf"))
    mixed_BSD = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x_BSD = x_BSD + mixed_BSD @ attn.out_proj.weight.T + attn.out_proj.bias
    h_BSD = functional.layer_norm(x_BSD, (width,), block.ln_2.weight, block.ln_2.bias, 1e-6)
    hidden = functional.gelu(h_BSD @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias, approximate=block.mlp.gelu)
    return x_BSD + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def text(model: ClipsModel, ids_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Compute all L tokens of the last block, and unit features, without trimming."""
    tower = model.text
    batch, length = ids_BL.shape
    allowed_BSS = torch.ones(batch, length, length, dtype=torch.bool)
    if model.config.text.padding == "mask":
        allowed_BSS = allowed_BSS & (ids_BL != model.config.text.pad_id)[:, None, :]
    x_BLD = tower.token_embedding.weight[ids_BL] + tower.positions_LD
    for layer in tower.blocks:
        x_BLD = block(layer, x_BLD, allowed_BSS)
    width = x_BLD.shape[-1]
    pooled = functional.layer_norm(x_BLD[:, -1], (width,), tower.norm.weight, tower.norm.bias, 1e-6)
    return x_BLD, unit(pooled @ tower.head.weight.T)


def caption_logits(model: ClipsModel, image_BPD: Tensor, web_tokens_BLD: Tensor, web_ids_BL: Tensor) -> Tensor:
    """Compute logits (B, Q, V) of all queries with one dense mask over the whole sequence."""
    captioner = model.captioner
    web_BSD = web_tokens_BLD[:, :-1]
    if model.config.captioner.condition == "after_norm":
        norm = model.text.norm
        web_BSD = functional.layer_norm(web_BSD, web_BSD.shape[-1:], norm.weight, norm.bias, 1e-6)
    batch, queries = web_BSD.shape[0], captioner.queries_QD.shape[0]
    x_BSD = torch.cat(
        [
            image_BPD @ captioner.image_projection.weight.T,
            web_BSD @ captioner.text_projection.weight.T,
            captioner.queries_QD.expand(batch, -1, -1),
        ],
        dim=1,
    )
    prefix, whole = x_BSD.shape[1] - queries, x_BSD.shape[1]
    allowed_BSS = torch.zeros(batch, whole, whole, dtype=torch.bool)
    allowed_BSS[:, :, :prefix] = True
    allowed_BSS[:, prefix:, prefix:] = torch.ones(queries, queries).tril().bool()
    if model.config.text.padding == "mask":
        first = image_BPD.shape[1]
        allowed_BSS[:, :, first:prefix] &= (web_ids_BL[:, :-1] != model.config.text.pad_id)[:, None, :]
    for layer in captioner.blocks:
        x_BSD = block(layer, x_BSD, allowed_BSS)
    h_BQD = x_BSD[:, prefix:]
    h_BQD = functional.layer_norm(h_BQD, h_BQD.shape[-1:], captioner.norm.weight, captioner.norm.bias, 1e-6)
    return h_BQD @ captioner.head.weight.T


def unit(x: Tensor) -> Tensor:
    """Divide by the length plus 1e-8."""
    return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-8)


def contrastive_term(image_BE: Tensor, text_BE: Tensor, scale: Tensor) -> Tensor:
    """Compute symmetric InfoNCE on the whole batch from explicit log-softmaxes."""
    logits = scale * image_BE @ text_BE.T
    to_text = -(logits.diagonal() - logits.logsumexp(1)).mean()
    to_image = -(logits.diagonal() - logits.logsumexp(0)).mean()
    return (to_text + to_image) / 2


def sigmoid_term(image_BE: Tensor, text_BE: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Compute SigLIP's loss on the whole batch from explicit signs: the sum over pairs, divided by the images."""
    logits = scale * image_BE @ text_BE.T + bias
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -functional.logsigmoid(signs * logits).sum() / len(logits)


def caption(logits_BQV: Tensor, target_ids_BT: Tensor, pad_id: int = 0) -> Tensor:
    """Compute the published caption loss: labels are ids shifted left; one mean over labels that are not PAD."""
    labels_BT = functional.pad(target_ids_BT[:, 1:], (0, 1), value=pad_id)
    mask_BT = (labels_BT != pad_id).to(logits_BQV.dtype)
    logits_BTV = logits_BQV[:, : labels_BT.shape[1]]
    nats_BT = -logits_BTV.log_softmax(-1).gather(-1, labels_BT[..., None])[..., 0]
    return (nats_BT * mask_BT).sum() / (mask_BT.sum() + 1e-8)


def losses(model: ClipsModel, images: Tensor, web_ids: Tensor, fragment_ids: Tensor, target_ids: Tensor) -> Tensor:
    """Compute contrastive and caption loss (2,) of a batch; the vision tower is the model's."""
    image = model.vision(images)
    web_tokens, web = text(model, web_ids)
    _, fragment = text(model, fragment_ids)
    scale, vision = model.logit_scale.exp(), unit(image.feature_BE)
    contrastive = (contrastive_term(vision, web, scale) + contrastive_term(vision, fragment, scale)) / 2
    logits = caption_logits(model, image.tokens_BPD, web_tokens, web_ids)
    return torch.stack([contrastive, caption(logits, target_ids)])


def rows(
    generator: torch.Generator, batch: int, length: int, longest: int, *, cls: int | None, vocab: int = 120
) -> Tensor:
    """Make encoder rows (with `cls` at the end) or target rows (None) with random lengths up to `longest` body ids."""
    ids = torch.zeros(batch, length, dtype=torch.long)
    for row in range(batch):
        body = int(torch.randint(1, longest + 1, (), generator=generator))
        ids[row, 0] = 1
        ids[row, 1 : 1 + body] = torch.randint(103, vocab, (body,), generator=generator)
        ids[row, 1 + body] = 2
        if cls is not None:
            ids[row, -1] = cls
    return ids
