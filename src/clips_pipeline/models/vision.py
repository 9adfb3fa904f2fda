# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Vision tower: a ViT for images of any size in whole patches. CLIPS paper, section 3; positions as in MoCo v3.

Shapes: B batch, C colors, H height and W width in pixels, P patches (row-major), K patches kept, D width, E embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.blocks import Block, run
from clips_pipeline.models.precision import FullLinear, FullNorm, full_precision, like_weight, stream_dtype
from clips_pipeline.models.sizes import VisionConfig

_LONGEST_WAVE = 10_000.0


def sincos_2d(rows: int, columns: int, width: int) -> Tensor:
    """Return the fixed position table (1 + rows * columns, width) in float32: zeros for CLS, then the patches, row-major.

    Each patch has sin x, cos x, sin y and cos y, a quarter of the width each, at frequencies 1 / 10000^(k / (width / 4 - 1)).
    """
    quarter = width // 4
    step = torch.arange(quarter, dtype=torch.float64) / max(quarter - 1, 1)
    omega_K = _LONGEST_WAVE**-step
    # By `expand`, since `repeat_interleave` has a size that `torch.export` does not know.
    y_PK = torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, columns).reshape(-1, 1) * omega_K
    x_PK = torch.arange(columns, dtype=torch.float64).repeat(rows)[:, None] * omega_K
    patches_PD = torch.cat([x_PK.sin(), x_PK.cos(), y_PK.sin(), y_PK.cos()], dim=1)
    return functional.pad(patches_PD, (0, 0, 1, 0)).float()


class VisionOutput(NamedTuple):
    """Output of the tower: patch tokens before the final norm (B, P, D), pooled (B, D), and projected (B, E), not normalized."""

    tokens_BPD: Tensor
    pooled_BD: Tensor
    feature_BE: Tensor


class VisionTower(nn.Module):
    """ViT with a CLS token that takes part in attention but not in pooling: the feature is the mean of the patches.

    Args:
        config: dimensions and positions.
        embed_dim: E; None leaves out final norm and projection, which are not trained without a text tower.
    """

    halves_stream: bool = False

    def __init__(self, config: VisionConfig, embed_dim: int | None) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.cls_D = nn.Parameter(torch.empty(config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, "none") for _ in range(config.depth))
        self.norm = None if embed_dim is None else FullNorm(config.width)
        self.head = None if embed_dim is None else FullLinear(config.width, embed_dim)
        self.positions_PD: Tensor | None
        stored = torch.empty(1 + config.tokens, config.width) if config.positions == "stored" else None
        self.register_buffer("positions_PD", stored)
        self._tables: dict[tuple[object, ...], Tensor] = {}

    def forward(self, images_BCHW: Tensor, kept_BK: Tensor | None = None) -> VisionOutput:
        """Encode normalized images whose height and width are multiples of the patch size.

        Args:
            images_BCHW: the images.
            kept_BK: indices of the patches to read, the same number for each image; None reads all.

        Raises:
            ValueError: the images do not consist of whole patches, or do not fit a stored position table.
        """
        tokens_BSD = self.embed(images_BCHW)
        if kept_BK is not None:
            chosen_BK1 = (functional.pad(kept_BK + 1, (1, 0))).unsqueeze(2)  # CLS first, then the patches
            tokens_BSD = tokens_BSD.gather(1, chosen_BK1.expand(-1, -1, tokens_BSD.shape[2]))
        for block in self.blocks:
            tokens_BSD = run(block, tokens_BSD)
        tokens_BPD = tokens_BSD[:, 1:]
        mean_BD = tokens_BPD.mean(dim=1)
        if self.norm is None or self.head is None:
            return VisionOutput(tokens_BPD, mean_BD, mean_BD)
        pooled_BD = self.norm(mean_BD)
        return VisionOutput(tokens_BPD, pooled_BD, self.head(pooled_BD))

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Return the input (B, 1 + P, D) of the first block, CLS first, for images (B, 3, H, W)."""
        size = self.config.patch_size
        height, width = images_BCHW.shape[-2:]
        if height % size or width % size:
            raise ValueError(
                f"image of {height} x {width} pixels is not made of whole {size}-pixel patches; resize or pad it"
            )
        with full_precision(images_BCHW.device):
            images_BCHW = like_weight(images_BCHW, self.patches.weight)
            grid_BDHW = functional.conv2d(images_BCHW, self.patches.weight.to(images_BCHW.dtype), stride=size)
        tokens_BPD = grid_BDHW.flatten(2).transpose(1, 2)
        table_PD = self._table(height // size, width // size, tokens_BPD)
        cls_BPD = self.cls_D.to(tokens_BPD.dtype).expand(tokens_BPD.shape[0], 1, -1)
        return (torch.cat([cls_BPD, tokens_BPD], dim=1) + table_PD).to(stream_dtype(self, self.cls_D))

    def position_table(self) -> Tensor:
        """Return a copy of the position table (1 + P, D) for images of the configured size, in the tower's precision."""
        side = self.config.image_size // self.config.patch_size
        return self._table(side, side, self.cls_D).detach().clone()

    def _table(self, rows: int, columns: int, like: Tensor) -> Tensor:
        if self.positions_PD is not None:
            side = self.config.image_size // self.config.patch_size
            if (rows, columns) != (side, side):
                raise ValueError(
                    f"the stored position table fits {side} x {side} patches, the image has {rows} x {columns}; "
                    f"resize it to {self.config.image_size} pixels or set vision.positions to 'computed'"
                )
            return self.positions_PD.to(like.dtype)
        if torch.compiler.is_compiling():
            # What a tracer computes is no table to keep.
            return sincos_2d(rows, columns, self.config.width).to(like)
        # Not a buffer: a buffer would be lost on the meta device, and one tower serves many grids.
        key = (rows, columns, like.device, like.dtype)
        if key not in self._tables:
            # A tensor created in inference mode could not be used in training later.
            with torch.inference_mode(False):
                self._tables[key] = sincos_2d(rows, columns, self.config.width).to(like)
        return self._tables[key]
