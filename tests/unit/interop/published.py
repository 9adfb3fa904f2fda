"""A small model in the form of the published weights, written by open_clip itself."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import HFTokenizer

from clips_pipeline.models.vision import sincos_2d

NORM = {"eps": 1e-6}
# The published configuration, but for its sizes; ViT-H/14's heads are as wide as these, relative to 64.
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 40,
        "head_width": 20,
        "patch_size": 16,
        "no_ln_pre": True,
        "pool_type": "avg",
        "final_ln_after_pool": True,
        "norm_kwargs": NORM,
    },
    "text_cfg": {
        "context_length": 80,
        "vocab_size": 32000,
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "width": 24,
        "heads": 3,
        "layers": 2,
        "pool_type": "last",
        "no_causal_mask": True,
        "act_kwargs": {"approximate": "tanh"},
        "norm_kwargs": NORM,
    },
}
IMAGES = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
CARD = "---\nlibrary_name: open_clip\nlicense: apache-2.0\n---\n# A model\n"


def save_published(folder: Path, vocabulary: Path, *, safe: bool | str = True, mode: str = "clips") -> Path:
    """Write a model with random weights as `push_to_hf_hub` does, with a vocabulary of BERT, and return the folder.

    Args:
        folder: folder to write.
        vocabulary: BERT's `vocab.txt`.
        safe: `safe_serialization` of open_clip: True, False for a pickle, or `both`.
        mode: tokenizer mode in the configuration; the first published files name none.
    """
    names = folder.parent / "bert"
    names.mkdir(exist_ok=True)
    (names / "vocab.txt").write_bytes(vocabulary.read_bytes())
    special = {
        "bos_token": "[unused0]",
        "eos_token": "[unused1]",
        "cls_token": "[CLS]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
    }
    (names / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "split_special_tokens": True} | special)
    )
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL_CFG)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases are zero at first, which would hide one that is forgotten.
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.visual.positional_embedding.copy_(sincos_2d(2, 2, 40))
    model.visual.image_mean, model.visual.image_std = IMAGES["mean"], IMAGES["std"]
    model.visual.preprocess_cfg = IMAGES
    config = json.loads(json.dumps(MODEL_CFG))
    if mode:
        config["text_cfg"]["tokenizer_mode"] = mode
    tokenizer = HFTokenizer(str(names), context_length=80, tokenizer_mode=mode)
    save_for_hf(model, tokenizer, config, str(folder), safe_serialization=safe)
    (folder / "README.md").write_text(CARD)
    return folder
