"""The towers in plain PyTorch, for inference elsewhere: exports, `torch.export`, hooks. CLIPS paper, section 3.

This file imports torch alone and is copied into exports, so it must not import anything of this project. Names of parameters
are those of `vision.VisionTower` and `text.TextTower`, whose weights it loads. `tests/unit/models/test_plain.py` compares both.

Shapes: B batch, C colors, H height and W width in pixels, S sequence, P patches, L context length, D width, K head width,
E embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1.0e-6
_MLP_RATIO = 4


class PlainAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
        """Attend to all positions where the mask (B, 1, 1, S) or (S, S) is True, (B, S, D) -> (B, S, D)."""
        parts = self.in_proj(x_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHSK, k_BHSK, v_BHSK = parts.unbind(0)
        y_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask_B11S)
        projected_BSD: Tensor = self.out_proj(y_BHSK.transpose(1, 2).flatten(2))
        return projected_BSD


class PlainMlp(nn.Module):
    """Two linear layers with GELU between them: `approximate` is "none" or "tanh"."""

    def __init__(self, width: int, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.c_fc = nn.Linear(width, _MLP_RATIO * width)
        self.c_proj = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        output: Tensor = self.c_proj(functional.gelu(self.c_fc(x), approximate=self.approximate))
        return output


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, approximate: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = PlainAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = PlainMlp(width, approximate)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
        """Apply attention and MLP, (B, S, D) -> (B, S, D)."""
        x_BSD = x_BSD + self.attn(self.ln_1(x_BSD), mask_B11S)
        output_BSD: Tensor = x_BSD + self.mlp(self.ln_2(x_BSD))
        return output_BSD


class PlainVision(nn.Module):
    """Vision tower for images of one size.

    Args:
        image_size: height and width of an image in pixels.
        patch_size: side of a patch in pixels.
        width, depth, heads: of the transformer.
        embed_dim: E.
    """

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        tokens = 1 + (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.cls_D = nn.Parameter(torch.zeros(width))
        self.positions_PD: Tensor
        self.register_buffer("positions_PD", torch.zeros(tokens, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads, "none") for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, embed_dim, bias=False)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return unit features (B, E) of normalized images."""
        return self.pool(self.tokens(images_BCHW))

    def pool(self, x_BSD: Tensor) -> Tensor:
        """Return unit features (B, E) of the last block's tokens."""
        return _unit_rows(self.head(self.norm(x_BSD[:, 1:].mean(dim=1))))

    def tokens(self, images_BCHW: Tensor) -> Tensor:
        """Return the tokens (B, 1 + P, D) of the last block, CLS first."""
        patches_BPD = self.patches(images_BCHW).flatten(2).transpose(1, 2)
        cls_B1D = self.cls_D.expand(patches_BPD.shape[0], 1, -1)
        x_BSD = torch.cat([cls_B1D, patches_BPD], dim=1) + self.positions_PD
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return x_BSD


class PlainText(nn.Module):
    """Text tower, pooled at the last position.

    Args:
        vocab_size: rows of the embedding table.
        context_length: L.
        width, depth, heads: of the transformer.
        embed_dim: E.
        hidden_id: id of the token that is hidden from attention; None hides none.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        embed_dim: int,
        hidden_id: int | None = None,
    ) -> None:
        super().__init__()
        self.hidden_id = hidden_id
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positions_LD = nn.Parameter(torch.zeros(context_length, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads, "tanh") for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, embed_dim, bias=False)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return unit features (B, E) of rows of ids that end in [CLS]."""
        return self.pool(self.tokens(ids_BL))

    def pool(self, x_BLD: Tensor) -> Tensor:
        """Return unit features (B, E) of the last block's tokens."""
        return _unit_rows(self.head(self.norm(x_BLD[:, -1])))

    def tokens(self, ids_BL: Tensor) -> Tensor:
        """Return the tokens (B, L, D) of the last block."""
        mask_B11L = None if self.hidden_id is None else (ids_BL != self.hidden_id)[:, None, None, :]
        x_BLD: Tensor = self.token_embedding(ids_BL) + self.positions_LD
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_B11L)
        return x_BLD


def _unit_rows(x_BE: Tensor) -> Tensor:
    norm_B1: Tensor = torch.linalg.vector_norm(x_BE, dim=-1, keepdim=True)
    return x_BE / (norm_B1 + 1.0e-8)
