"""Conversion of the golden vectors' JAX parameters to this project's names and back; `GOLDEN_CONFIG` is their size.

Shapes as in the fixtures' own README: dense kernels are (in, out), images are NHWC.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import CaptionerConfig, ClipsConfig, TextConfig, VisionConfig

Arrays = Mapping[str, NDArray[np.float32]]

GOLDEN_CONFIG = ClipsConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3),
    text=TextConfig(vocab_size=120, width=32, depth=2, heads=2, context_length=12, padding="attend"),
    captioner=CaptionerConfig(vocab_size=120, width=32, depth=2, heads=2, queries=9),
    embed_dim=24,
)

_SINGLE = {
    "logit_scale": "t",
    "vision.patches.weight": "img/embedding/kernel",
    "vision.cls_D": "img/cls",
    "vision.norm.weight": "img/encoder_norm/scale",
    "vision.norm.bias": "img/encoder_norm/bias",
    "vision.head.weight": "img/head/kernel",
    "text.token_embedding.weight": "txt/Embed_0/embedding",
    "text.positions_LD": "txt/pos_embedding",
    "text.norm.weight": "txt/encoder_norm/scale",
    "text.norm.bias": "txt/encoder_norm/bias",
    "text.head.weight": "txt/head/kernel",
    "captioner.queries_QD": "txt_decoder/learnable_tokens",
    "captioner.image_projection.weight": "txt_decoder/image_projection_layer/kernel",
    "captioner.text_projection.weight": "txt_decoder/text_projection_layer/kernel",
    "captioner.norm.weight": "txt_decoder/decoder_norm/scale",
    "captioner.norm.bias": "txt_decoder/decoder_norm/bias",
    "captioner.head.weight": "txt_decoder/head/kernel",
}
_PARTS = {"vision": "img", "text": "txt", "captioner": "txt_decoder"}
_BLOCK = {
    "ln_1.weight": "LayerNorm_0/scale",
    "ln_1.bias": "LayerNorm_0/bias",
    "ln_2.weight": "LayerNorm_1/scale",
    "ln_2.bias": "LayerNorm_1/bias",
    "attn.out_proj.weight": "MultiHeadDotProductAttention_0/out/kernel",
    "attn.out_proj.bias": "MultiHeadDotProductAttention_0/out/bias",
    "mlp.c_fc.weight": "MlpBlock_0/Dense_0/kernel",
    "mlp.c_fc.bias": "MlpBlock_0/Dense_0/bias",
    "mlp.c_proj.weight": "MlpBlock_0/Dense_1/kernel",
    "mlp.c_proj.bias": "MlpBlock_0/Dense_1/bias",
}


def jax_names(ours: str) -> tuple[str, ...]:
    """Return the JAX names of one of our parameters: one name, or query, key and value."""
    if ours in _SINGLE:
        return (_SINGLE[ours],)
    part, _, number, rest = ours.split(".", 3)
    block = f"{_PARTS[part]}/Transformer/encoderblock_{number}/"
    if rest.startswith("attn.in_proj."):
        leaf = "kernel" if rest.endswith("weight") else "bias"
        return tuple(f"{block}MultiHeadDotProductAttention_0/{which}/{leaf}" for which in ("query", "key", "value"))
    return (block + _BLOCK[rest],)


def from_jax(arrays: Arrays, prefix: str, ours: str, shape: torch.Size) -> Tensor:
    """Build one of our tensors (a parameter or gradient) from the arrays under `prefix`."""
    pieces = []
    for name in jax_names(ours):
        piece = torch.from_numpy(np.asarray(arrays[f"{prefix}/{name}"]))
        if name == "img/embedding/kernel":
            piece = piece.permute(3, 2, 0, 1)
        elif name.endswith("/kernel"):
            piece = piece.T
        pieces.append(piece)
    return torch.cat(pieces).reshape(shape)


def golden_model(arrays: Arrays, config: ClipsConfig = GOLDEN_CONFIG) -> ClipsModel:
    """Build a model with the golden parameters of the parts that `arrays` has."""
    model = ClipsModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"param/{jax_names(name)[0]}" in arrays:
                parameter.copy_(from_jax(arrays, "param", name, parameter.shape))
    return model


def golden(folder: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """Load all arrays of one golden file."""
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def images(array: NDArray[np.float32]) -> Tensor:
    """Convert NHWC to NCHW."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
