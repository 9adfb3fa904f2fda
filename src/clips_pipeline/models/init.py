"""Initialization of all parameters, as in the authors' JAX code. Biases are zero, weights of norms are one.

One known difference: the authors' text tower and captioner scale the two output layers of a block as if the depth were 12
(their encoder does not pass its depth on). Here it is the real depth, as their formula intends; only H/14 (24 blocks) differs.

Shapes: D width.
"""

import math

import torch
from torch import Tensor, nn

from clips_pipeline.models.blocks import Block
from clips_pipeline.models.captioner import Captioner
from clips_pipeline.models.text import TextTower
from clips_pipeline.models.vision import VisionTower, sincos_2d

INITIAL_TEMPERATURE = 0.07
"""Initial temperature of the contrastive softmax: logit_scale = log(1 / 0.07)."""

INITIAL_SIGMOID = 10.0, -10.0
"""Initial scale and bias of the sigmoid loss (SigLIP, arXiv 2303.15343, section 3.2): logit_scale = log(10)."""

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal truncated at two deviations; dividing by it gives the requested deviation."""


@torch.no_grad()
def initialize_vision(tower: VisionTower) -> None:
    """Initialize the vision tower."""
    for block in _blocks(tower.blocks):
        _reset_norms_and_biases(block)
        nn.init.normal_(block.attn.in_proj.weight, std=0.02)
        nn.init.normal_(block.attn.out_proj.weight, std=0.02)
        nn.init.normal_(block.mlp.c_fc.weight, std=0.02)
        _truncated(block.mlp.c_proj.weight, math.sqrt(0.3072 / tower.config.width))
    if tower.norm is not None:
        _reset_norm(tower.norm)
    # Kaiming uniform as JAX defines it: gain 2, fan in.
    bound = math.sqrt(6.0 / (3 * tower.config.patch_size**2))
    nn.init.uniform_(tower.patches.weight, -bound, bound)
    nn.init.normal_(tower.cls_D, std=1.0e-6)
    if tower.head is not None:
        nn.init.normal_(tower.head.weight, std=0.02)
    if tower.positions_PD is not None:
        side = tower.config.image_size // tower.config.patch_size
        tower.positions_PD.copy_(sincos_2d(side, side, tower.config.width))


@torch.no_grad()
def initialize_text(tower: TextTower) -> None:
    """Initialize the text tower."""
    config = tower.config
    nn.init.normal_(tower.token_embedding.weight, std=0.02)
    nn.init.normal_(tower.positions_LD, std=0.01)
    _text_blocks(tower.blocks, config.width, config.depth)
    _reset_norm(tower.norm)
    nn.init.normal_(tower.head.weight, std=config.width**-0.5)


@torch.no_grad()
def initialize_captioner(captioner: Captioner) -> None:
    """Initialize the captioner."""
    config = captioner.config
    for layer in (captioner.image_projection, captioner.text_projection, captioner.head):
        if layer is not None:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    if captioner.token_embedding is None:
        nn.init.normal_(captioner.queries_QD, std=1.0)
    else:
        # With token inputs the queries are positions, as in the text tower.
        nn.init.normal_(captioner.token_embedding.weight, std=0.02)
        nn.init.normal_(captioner.queries_QD, std=0.01)
    _text_blocks(captioner.blocks, config.width, config.depth)
    _reset_norm(captioner.norm)


def _text_blocks(blocks: nn.ModuleList, width: int, depth: int) -> None:
    inside = width**-0.5
    outside = inside * (2 * depth) ** -0.5
    for block in _blocks(blocks):
        _reset_norms_and_biases(block)
        nn.init.normal_(block.attn.in_proj.weight, std=inside)
        nn.init.normal_(block.attn.out_proj.weight, std=outside)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=outside)


def _blocks(blocks: nn.ModuleList) -> list[Block]:
    return [block for block in blocks if isinstance(block, Block)]


def _reset_norms_and_biases(block: Block) -> None:
    _reset_norm(block.ln_1)
    _reset_norm(block.ln_2)
    for layer in (block.attn.in_proj, block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
        nn.init.zeros_(layer.bias)


def _reset_norm(norm: nn.LayerNorm) -> None:
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def _truncated(weight: Tensor, std: float) -> None:
    # Not `nn.init.trunc_normal_`: a seed gives other weights with it in newer releases of torch.
    scale = std / _TRUNCATED_STD
    bound = math.erf(math.sqrt(2))
    weight.uniform_(-bound, bound).erfinv_().mul_(scale * math.sqrt(2)).clamp_(-2 * scale, 2 * scale)
