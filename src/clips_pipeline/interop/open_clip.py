"""Conversion of state dicts from and to open_clip's layout of CLIPS, which the published checkpoints have.

Published checkpoints contain the two towers and the logit scale, but no captioner. A bias (`logit_bias`) is that of the sigmoid
loss. Differences of layout:

- Names differ, and both projections are transposed, (width, embed). No tensors are split or fused.
- `visual.positional_embedding` is a parameter in open_clip. Here it is the fixed sin-cos table, computed for any image size.
  A table that was trained is detected and stored.
- open_clip has no PAD mask: a model with `text.padding` "mask" has different text features there.

Shapes: D width, E embedding, P positions (CLS first), L text context.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.init import initialize_captioner
from clips_pipeline.models.sizes import CaptionerConfig, ClipsConfig, TextConfig, VisionConfig
from clips_pipeline.models.vision import sincos_2d

HEAD_WIDTH = 64
"""Width of an attention head in all published models, with one exception:"""

HEAD_WIDTHS_VISION = {1280: 80}
"""Vision width to head width if it is not 64 (H/14: 16 heads)."""

_TABLE = "visual.positional_embedding"
_BIAS = "logit_bias"
_SAME_TABLE = 1.0e-3
"""Maximum absolute difference at which a stored table counts as the computed one; half precision stays well below."""

_BLOCK_NAMES = {
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "attn.in_proj_weight": "attn.in_proj.weight",
    "attn.in_proj_bias": "attn.in_proj.bias",
    "attn.out_proj.weight": "attn.out_proj.weight",
    "attn.out_proj.bias": "attn.out_proj.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.c_fc.weight": "mlp.c_fc.weight",
    "mlp.c_fc.bias": "mlp.c_fc.bias",
    "mlp.c_proj.weight": "mlp.c_proj.weight",
    "mlp.c_proj.bias": "mlp.c_proj.bias",
}


def to_state_dict(model: ClipsModel) -> dict[str, Tensor]:
    """Return the towers, logit scale and bias (if there is one) under open_clip's keys, as copies in the model's precision.

    The captioner is left out. The position table is that of the configured image size.

    Raises:
        ConfigError: the model has no text tower.
    """
    named = {key: tensor.detach().clone().contiguous() for key, tensor in _named(model).items()}
    named.setdefault(_TABLE, model.vision.position_table())
    return named


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    image_size: int,
    *,
    padding: Literal["attend", "mask"] = "attend",
    vision_heads: int | None = None,
    text_heads: int | None = None,
    captioner: bool = True,
) -> ClipsModel:
    """Build a model with the towers of an open_clip `CLIP` checkpoint, whose keys must match exactly.

    Sizes follow from the shapes. The number of heads does not: the head width is 64 (80 in a vision tower of width 1280), as
    in all published models. The captioner, which checkpoints lack, has the width and depth of the text tower and is
    initialized from PyTorch's default generator.

    Args:
        state_dict: open_clip's keys to tensors.
        image_size: side of square images in pixels. It may differ from the size in training, unless the position table was
            trained.
        padding: treatment of PAD; published weights were trained with "attend".
        vision_heads: number of heads of the vision tower, if the rule does not apply.
        text_heads: number of heads of the text tower, if the rule does not apply.
        captioner: whether the model gets a captioner.

    Raises:
        ConfigError: keys are missing or unexpected, or shapes are invalid.
    """
    config = _read_config(state_dict, image_size, padding, vision_heads, text_heads)
    if not captioner:
        config = dataclasses.replace(config, captioner=None)
    with torch.device("meta"):
        model = ClipsModel(config)
    model.to_empty(device="cpu")
    if model.captioner is not None:
        initialize_captioner(model.captioner)
    named = _named(model)
    expected = {*named, _TABLE}
    missing, unexpected = sorted(expected - set(state_dict)), sorted(set(state_dict) - expected)
    if missing or unexpected:
        raise ConfigError(
            f"open_clip state dict: {_list('missing', missing)}{_list('unexpected', unexpected)}{_REMEDY}"
        )
    with torch.no_grad():
        for key, tensor in named.items():
            found = tuple(state_dict[key].shape)
            if found != tuple(tensor.shape):
                raise ConfigError(f"open_clip state dict: {key} is {found}, expected {tuple(tensor.shape)}{_REMEDY}")
            tensor.copy_(state_dict[key])
    return model


_REMEDY = "; only CLIPS towers in open_clip's CLIP layout can be read (no ln_pre, no `text.` prefix, no captioner)"


def _list(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return f"{what} {shown}. "


def _named(model: ClipsModel) -> dict[str, Tensor]:
    """Map open_clip's keys to views of the model's tensors in open_clip's shapes; writing to them changes the model."""
    vision, text = model.vision, model.text
    if text is None or vision.norm is None or vision.head is None:
        raise ConfigError("open_clip's form has a text tower, and a model of train.method captioning has none")
    named: dict[str, Tensor] = {
        "logit_scale": model.logit_scale,
        "positional_embedding": text.positions_LD,
        "text_projection": text.head.weight.T,
        "token_embedding.weight": text.token_embedding.weight,
        "ln_final.weight": text.norm.weight,
        "ln_final.bias": text.norm.bias,
        "visual.class_embedding": vision.cls_D,
        "visual.conv1.weight": vision.patches.weight,
        "visual.proj": vision.head.weight.T,
        "visual.ln_post.weight": vision.norm.weight,
        "visual.ln_post.bias": vision.norm.bias,
    }
    if model.logit_bias is not None:
        named[_BIAS] = model.logit_bias
    if vision.positions_PD is not None:
        named[_TABLE] = vision.positions_PD
    for prefix, blocks in (("", text.blocks), ("visual.", vision.blocks)):
        for number, block in enumerate(blocks):
            ours = dict(block.named_parameters())
            place = f"{prefix}transformer.resblocks.{number}."
            named |= {place + theirs: ours[own] for theirs, own in _BLOCK_NAMES.items()}
    return named


def _read_config(
    state_dict: Mapping[str, Tensor],
    image_size: int,
    padding: Literal["attend", "mask"],
    vision_heads: int | None,
    text_heads: int | None,
) -> ClipsConfig:
    shapes: dict[str, tuple[int, ...]] = {}
    for key, rank in (
        ("token_embedding.weight", 2),
        ("positional_embedding", 2),
        ("visual.conv1.weight", 4),
        ("visual.proj", 2),
    ):
        if key not in state_dict:
            raise ConfigError(f"open_clip state dict: missing {key}{_REMEDY}")
        shapes[key] = tuple(state_dict[key].shape)
        if len(shapes[key]) != rank:
            raise ConfigError(f"open_clip state dict: {key} is {shapes[key]}, expected {rank} dimensions{_REMEDY}")
    vocab_size, text_width = shapes["token_embedding.weight"]
    vision_width, _, patch_size, _ = shapes["visual.conv1.weight"]
    text = TextConfig(
        vocab_size=vocab_size,
        width=text_width,
        depth=_depth(state_dict, ""),
        heads=text_heads or _heads("text", text_width, HEAD_WIDTH),
        context_length=shapes["positional_embedding"][0],
        padding=padding,
    )
    vision = VisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=vision_width,
        depth=_depth(state_dict, "visual."),
        heads=vision_heads or _heads("vision", vision_width, HEAD_WIDTHS_VISION.get(vision_width, HEAD_WIDTH)),
    )
    if _TABLE in state_dict and not _is_computed(state_dict[_TABLE], vision_width):
        vision = dataclasses.replace(vision, positions="stored")
    captioner = CaptionerConfig(
        vocab_size=vocab_size, width=text_width, depth=text.depth, heads=text.heads, queries=128
    )
    return ClipsConfig(
        vision=vision,
        text=text,
        captioner=captioner,
        embed_dim=shapes["visual.proj"][1],
        contrastive="sigmoid" if _BIAS in state_dict else "softmax",
    )


def _depth(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    return len({found[1] for key in state_dict if (found := pattern.match(key))})


def _heads(part: str, width: int, head_width: int) -> int:
    if width % head_width:
        raise ConfigError(
            f"{part} width {width} is not a multiple of the published head width {head_width}; give {part}_heads"
        )
    return width // head_width


def _is_computed(table_PD: Tensor, width: int) -> bool:
    side = round(max(table_PD.shape[0] - 1, 0) ** 0.5)
    computed_PD = sincos_2d(side, side, width)
    return table_PD.shape == computed_PD.shape and bool(
        (table_PD.float().cpu() - computed_PD).abs().amax() <= _SAME_TABLE
    )
