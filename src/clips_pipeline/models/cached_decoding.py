"""Step-by-step computation of CoCa's captioner with kept keys and values, for decoding.

A position reads the image and the positions before it. Keys and values of the image are computed once for all captions of an
image, and those of earlier positions once per caption, so that a step computes one position. The naive form, which computes all
positions at every step, is `Captioner.forward`.

Shapes: B images, W captions of each image, R = B * W rows, P image tokens, T earlier positions, D width, H heads, K width of a
head, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.blocks import Block
from clips_pipeline.models.captioner import Captioner
from clips_pipeline.models.precision import widen


class CachedCaptioner:
    """Captions of B images in progress, of equal length. At first, each image has one caption, which is empty.

    Args:
        captioner: captioner with `inputs: tokens`, in evaluation mode.
        image_BPD: image tokens.

    Raises:
        ValueError: the captioner reads no tokens.
    """

    @torch.no_grad()
    def __init__(self, captioner: Captioner, image_BPD: Tensor) -> None:
        if captioner.token_embedding is None:
            raise ValueError("only a captioner of method coca reads the preceding words")
        self._captioner, self._tokens, self._captions = captioner, captioner.token_embedding, 1
        self._position = 0
        self._image_kv: list[tuple[Tensor, Tensor]] = []
        prefix_BPD: Tensor = captioner.image_projection(image_BPD).to(captioner.queries_QD.dtype)
        empty = prefix_BPD.new_zeros(len(prefix_BPD), 0, prefix_BPD.shape[-1])
        self._own_kv: list[tuple[Tensor, Tensor]] = []
        for block in self._blocks():
            q, k, v = (_split_heads(part, block) for part in _projections(block, prefix_BPD))
            self._image_kv.append((k, v))
            self._own_kv.append((_split_heads(empty, block), _split_heads(empty, block)))
            prefix_BPD = _finish(block, prefix_BPD, functional.scaled_dot_product_attention(q, k, v))

    @torch.no_grad()
    def step(self, ids_BW: Tensor) -> Tensor:
        """Append one id to each caption and return the log-probabilities (B, W, V) of the next one, float32.

        Raises:
            ValueError: there are no positions left.
        """
        captioner = self._captioner
        if self._position >= captioner.config.queries:
            raise ValueError(f"a caption has at most {captioner.config.queries} positions")
        tokens_R1D = widen(self._tokens(ids_BW.reshape(-1, 1)))
        x_R1D = (widen(captioner.queries_QD[self._position]) + tokens_R1D).to(captioner.queries_QD.dtype)
        for number, block in enumerate(self._blocks()):
            q, k, v = (_split_heads(part, block) for part in _projections(block, x_R1D))
            own_k, own_v = self._own_kv[number]
            own_k, own_v = torch.cat([own_k, k], dim=2), torch.cat([own_v, v], dim=2)
            self._own_kv[number] = own_k, own_v
            x_R1D = _finish(block, x_R1D, self._attend(q, self._image_kv[number], own_k, own_v))
        self._position += 1
        logits: Tensor = captioner.head(captioner.norm(x_R1D[:, 0]))
        return logits.float().log_softmax(dim=-1).reshape(*ids_BW.shape, -1)

    def keep(self, images_b: Tensor, parents_bW: Tensor) -> None:
        """Go on with some of the images, each with captions that continue some of its present ones.

        Args:
            images_b: numbers of the images to keep.
            parents_bW: for each new caption, the number of the present caption that it continues.
        """
        if len(images_b) < len(self._image_kv[0][0]):
            self._image_kv = [(k[images_b], v[images_b]) for k, v in self._image_kv]
        rows_R = (images_b[:, None] * self._captions + parents_bW).flatten()
        self._own_kv = [(k[rows_R], v[rows_R]) for k, v in self._own_kv]
        self._captions = parents_bW.shape[1]

    def _attend(self, q_RH1K: Tensor, image: tuple[Tensor, Tensor], own_k: Tensor, own_v: Tensor) -> Tensor:
        """Attend to the image and to the caption itself; the keys of an image are not copied for each caption."""
        image_k, image_v = image
        tokens, scale = image_k.shape[2], q_RH1K.shape[-1] ** -0.5
        # The captions of an image are rows of one product with its keys.
        q_BHWK = q_RH1K.squeeze(2).reshape(len(image_k), self._captions, *q_RH1K.shape[1::2]).transpose(1, 2)
        to_image_RH1P = (q_BHWK @ image_k.transpose(-1, -2)).transpose(1, 2).flatten(0, 1)[:, :, None]
        scores = torch.cat([to_image_RH1P, q_RH1K @ own_k.transpose(-1, -2)], dim=-1) * scale
        weights = widen(scores).softmax(dim=-1).to(q_RH1K.dtype)
        image_BHWP = weights[:, :, 0, :tokens].reshape(len(image_k), self._captions, -1, tokens).transpose(1, 2)
        from_image_RH1K = (image_BHWP @ image_v).transpose(1, 2).flatten(0, 1)[:, :, None]
        attended_RH1K: Tensor = from_image_RH1K + weights[..., tokens:] @ own_v
        return attended_RH1K

    def _blocks(self) -> list[Block]:
        return [block for block in self._captioner.blocks if isinstance(block, Block)]


def _projections(block: Block, x_RSD: Tensor) -> tuple[Tensor, ...]:
    return functional.linear(block.ln_1(x_RSD), block.attn.in_proj.weight, block.attn.in_proj.bias).chunk(3, dim=-1)


def _split_heads(x_RSD: Tensor, block: Block) -> Tensor:
    return x_RSD.reshape(*x_RSD.shape[:2], block.attn.heads, x_RSD.shape[2] // block.attn.heads).transpose(1, 2)


def _finish(block: Block, x_RSD: Tensor, attended_RHSK: Tensor) -> Tensor:
    """Add the output of attention, then that of the MLP."""
    x_RSD = x_RSD + block.attn.out_proj(attended_RHSK.transpose(1, 2).flatten(2))
    mlp = block.mlp
    output_RSD: Tensor = x_RSD + mlp.c_proj(functional.gelu(mlp.c_fc(block.ln_2(x_RSD)), approximate=mlp.gelu))
    return output_RSD
