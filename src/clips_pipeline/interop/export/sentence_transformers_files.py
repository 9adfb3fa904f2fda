"""Files with which Sentence Transformers 5 and later loads both folders of a Transformers export: `modules.json` and others.

`model/` embeds texts and images with one model, by its own code. `vision/` embeds images without code: the modules of
Sentence Transformers pool CLS and patches, and what CLIPS does besides is linear up to its norm. With N patches,

    mean of the patches = ((N + 1) * mean of all tokens - CLS) / N

Their layer norm has an epsilon of 1e-5; a factor of sqrt(10) before it makes that 1e-6, since the norm divides by the scale.

Shapes: D width, E embedding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clips_pipeline.interop.export.open_clip_form import write_json
from clips_pipeline.interop.folder import save_weights
from clips_pipeline.models.sizes import EPSILON
from clips_pipeline.models.vision import VisionTower

_TYPES: Final = "sentence_transformers.models"
_THEIR_EPSILON: Final = 1e-5


def write_both(folder: Path) -> None:
    """Write the files for `model/`, whose features have unit norm.

    Args:
        folder: folder with model, tokenizer and image processor.
    """
    modalities = {name: {"method": f"get_{name}_features", "method_output_name": None} for name in ("text", "image")}
    _write_modules(folder, ["Transformer"])
    _write_transformer(folder, modalities, "sentence_embedding", {})


def write_vision(vision: VisionTower, folder: Path) -> None:
    """Write the files for `vision/`.

    Args:
        vision: the tower.
        folder: folder with its weights as `ViTModel`, and the image processor.
    """
    width, patches = vision.config.width, vision.config.tokens
    _write_modules(folder, ["Transformer", "Pooling", "Dense", "LayerNorm", "Dense", "Normalize"])
    # Tokens before the last norm of the tower, which comes after pooling in CLIPS.
    states = {"image": {"method": "forward", "method_output_name": ["hidden_states", -1]}}
    _write_transformer(folder, states, "token_embeddings", {"add_pooling_layer": False})
    pooling = {"embedding_dimension": width, "pooling_mode": ["cls", "mean"], "include_prompt": True}
    _write(folder / "1_Pooling", pooling)
    scale = (_THEIR_EPSILON / EPSILON) ** 0.5
    identity = scale * torch.eye(width)
    _write_dense(folder / "2_Dense", torch.cat([-identity / patches, identity * (patches + 1) / patches], dim=1))
    assert vision.norm is not None and vision.head is not None  # noqa: S101, PT018  (towers of models that embed texts have both)
    norm = {"norm.weight": vision.norm.weight, "norm.bias": vision.norm.bias}
    _write(folder / "3_LayerNorm", {"dimension": width}, norm)
    _write_dense(folder / "4_Dense", vision.head.weight)
    _write(folder / "5_Normalize", {})


def _write_modules(folder: Path, kinds: list[str]) -> None:
    # The first module lies in the folder itself.
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": f"{_TYPES}.{kind}"}
        for number, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def _write_transformer(folder: Path, modalities: dict[str, Any], output: str, arguments: dict[str, Any]) -> None:
    content = {
        "transformer_task": "feature-extraction",
        "modality_config": modalities,
        "module_output_name": output,
        "model_args": arguments,
    }
    write_json(folder / "sentence_bert_config.json", content)


def _write_dense(folder: Path, weight_ED: Tensor) -> None:
    content = {
        "in_features": weight_ED.shape[1],
        "out_features": weight_ED.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(folder, content, {"linear.weight": weight_ED})


def _write(folder: Path, content: dict[str, Any], weights: Mapping[str, Tensor] | None = None) -> None:
    folder.mkdir()
    write_json(folder / "config.json", content)
    if weights:
        copies = {name: tensor.detach().float().clone().contiguous() for name, tensor in weights.items()}
        save_weights(copies, folder / "model.safetensors")
