"""Small random models for the tests of exports."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from tests.small_model import small_model

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer


def write_model(
    folder: Path,
    tokenizer: Tokenizer,
    padding: Literal["attend", "mask"] = "attend",
    changes: dict[str, Any] | None = None,
    **images: Any,
) -> Path:
    """Write a model folder with random weights, also in biases and norms, and return it."""
    config, size = small_model(), tokenizer.vocab_size
    assert config.captioner is not None
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, depth=2),
        text=dataclasses.replace(config.text, vocab_size=size, padding=padding),
        captioner=dataclasses.replace(config.captioner, vocab_size=size),
    )
    if changes == {"text_tower": False}:
        captioner = dataclasses.replace(config.captioner, inputs="tokens")
        changes = {**changes, "captioner": captioner, "embed_dim": config.vision.width}
    config = dataclasses.replace(config, **(changes or {}))
    torch.manual_seed(0)
    model = ClipsModel(config)
    with torch.no_grad():
        # Biases are zero at first, which would hide one that is forgotten.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer.save(folder / "tokenizer")
    return save_model(model, folder / "tokenizer", ImageConfig(size=32, **images).to_mapping(), folder / "model")
