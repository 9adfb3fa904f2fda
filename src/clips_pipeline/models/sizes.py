"""What a CLIPS model is made of, as data, and the named sizes of the paper.

Sizes: CLIPS paper, section 4 (S/16, B/16, L/16, L/14, H/14); see docs/method.md.
"""

from dataclasses import dataclass
from typing import Literal

from clips_pipeline.config import ConfigError

MLP_RATIO = 4
"""Width of every hidden layer, in widths of its block."""

EPSILON = 1.0e-6
"""Epsilon of every layer norm (Flax's default, with which the published weights were trained)."""


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower: a plain pre-norm ViT over square patches, pooled by the mean of its patch tokens.

    `positions` is "computed" for the fixed 2-D sin-cos table (any grid), "stored" for imported weights whose table
    was trained: that table is kept, not trained further, and fits one image size only.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    positions: Literal["computed", "stored"] = "computed"

    def __post_init__(self) -> None:
        _check_blocks("vision", self.width, self.depth, self.heads)
        _check_positive("vision.patch_size", self.patch_size)
        _check_positive("vision.image_size", self.image_size)
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"vision.image_size {self.image_size} is not a multiple of vision.patch_size {self.patch_size}; "
                f"use {self.image_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.width % 4:
            raise ConfigError(
                f"vision.width {self.width} must be a multiple of 4: positions are sin and cos of x and of y"
            )

    @property
    def tokens(self) -> int:
        """Number of patches of one image of the configured size."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """The text tower: bidirectional, pooled at its last position, where [CLS] stands.

    `padding` "attend" is published behaviour (PAD tokens are keys like any other); "mask" hides them, which also lets
    a batch be trimmed to its longest row.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    context_length: int = 80
    padding: Literal["attend", "mask"] = "attend"
    pad_id: int = 0

    def __post_init__(self) -> None:
        _check_blocks("text", self.width, self.depth, self.heads)
        _check_positive("text.vocab_size", self.vocab_size)
        if self.context_length < 4:
            raise ConfigError(
                f"text.context_length {self.context_length} leaves no room for BOS, a token, EOS and CLS; use 4 or more"
            )
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(f"text.pad_id {self.pad_id} is not in the vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class CaptionerConfig:
    """The captioner: self-attention blocks over image tokens, web caption tokens and learnable queries.

    `condition` "before_norm" reads the text tower's tokens before its final norm (the authors' JAX code),
    "after_norm" after it (their PyTorch code). Image tokens are read before the vision tower's norm in both.
    `inputs` "queries" is CLIPS; "tokens" is CoCa's teacher forcing: no web caption, and each place reads the token before it.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    queries: int = 128
    condition: Literal["before_norm", "after_norm"] = "before_norm"
    inputs: Literal["queries", "tokens"] = "queries"

    def __post_init__(self) -> None:
        _check_blocks("captioner", self.width, self.depth, self.heads)
        _check_positive("captioner.vocab_size", self.vocab_size)
        _check_positive("captioner.queries", self.queries)


@dataclass(frozen=True)
class ClipsConfig:
    """A whole model; without a captioner it is a pair of towers, as CLIP is.

    Another image size is `replace(config.vision, image_size=...)`: no parameter changes.

    Raises:
        ConfigError: sizes that cannot be built, here or in any of the parts.
    """

    vision: VisionConfig
    text: TextConfig
    captioner: CaptionerConfig | None
    embed_dim: int

    def __post_init__(self) -> None:
        _check_positive("embed_dim", self.embed_dim)
        if self.captioner is not None and self.captioner.vocab_size != self.text.vocab_size:
            raise ConfigError(
                f"captioner.vocab_size {self.captioner.vocab_size} is not text.vocab_size {self.text.vocab_size}; "
                "one tokenizer writes both, make them equal"
            )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} {value} must be at least 1")


def _check_blocks(part: str, width: int, depth: int, heads: int) -> None:
    for name, value in (("width", width), ("depth", depth), ("heads", heads)):
        _check_positive(f"{part}.{name}", value)
    if width % heads:
        raise ConfigError(
            f"{part}.width {width} cannot be split into {heads} heads; choose {part}.heads that divides it"
        )


def _paper(vision: VisionConfig, width: int, depth: int, heads: int) -> ClipsConfig:
    """Text tower and captioner share their size in the paper; the embedding is as wide as both."""
    return ClipsConfig(
        vision=vision,
        text=TextConfig(vocab_size=32_000, width=width, depth=depth, heads=heads),
        captioner=CaptionerConfig(vocab_size=32_000, width=width, depth=depth, heads=heads),
        embed_dim=width,
    )


SIZES: dict[str, ClipsConfig] = {
    "s16": _paper(VisionConfig(image_size=224, patch_size=16, width=384, depth=12, heads=6), 384, 12, 6),
    "b16": _paper(VisionConfig(image_size=224, patch_size=16, width=768, depth=12, heads=12), 512, 12, 8),
    "l16": _paper(VisionConfig(image_size=224, patch_size=16, width=1024, depth=24, heads=16), 768, 12, 12),
    "l14": _paper(VisionConfig(image_size=224, patch_size=14, width=1024, depth=24, heads=16), 768, 12, 12),
    "h14": _paper(VisionConfig(image_size=224, patch_size=14, width=1280, depth=32, heads=16), 1024, 24, 16),
    "tiny": ClipsConfig(
        vision=VisionConfig(image_size=64, patch_size=16, width=256, depth=2, heads=4),
        text=TextConfig(vocab_size=1_000, width=128, depth=1, heads=2),
        captioner=CaptionerConfig(vocab_size=1_000, width=64, depth=1, heads=1),
        embed_dim=128,
    ),
}
"""Sizes by name.

Paper sizes are for 224 px and the published 32,000-row vocabulary table; `tiny` is for a laptop's CPU.
"""
