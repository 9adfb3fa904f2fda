"""Configuration of a tiny model for fast tests."""

from dataclasses import replace

from clips_pipeline.models.sizes import SIZES, ClipsConfig


def small_model() -> ClipsConfig:
    """Return a configuration for images of 32 px, rows of 24 ids and a vocabulary of 300."""
    tiny = SIZES["tiny"]
    assert tiny.captioner is not None
    return replace(
        tiny,
        vision=replace(tiny.vision, image_size=32, patch_size=16, width=32, depth=1),
        text=replace(tiny.text, vocab_size=300, width=32, depth=1, context_length=24),
        captioner=replace(tiny.captioner, vocab_size=300, width=32, depth=1, queries=40),
        embed_dim=16,
    )
