"""A small open_clip model that differs from ours in size, framing and color normalization."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

MODEL_CFG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}
WEIGHTS = "open_clip_model.safetensors"


def settings(**model: object) -> str:
    """Return the content of `open_clip_config.json`, with changes to the model."""
    return json.dumps({"model_cfg": MODEL_CFG | model, "preprocess_cfg": PREPROCESS})


def save_peer(folder: Path) -> Path:
    """Save a model with random weights in the layout of `push_to_hf_hub`."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(settings())
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**MODEL_CFG).state_dict(), folder / WEIGHTS)
    return folder
