"""What a CLIPS model is made of, as data, and the named sizes of the paper.

Sizes: CLIPS paper, section 4 (S/16, B/16, L/16, L/14, H/14); see docs/method.md.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, PositiveInt

Dimension = Annotated[int, Ge(1), Le(2**16)]

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

    image_size: PositiveInt
    patch_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    positions: Literal["computed", "stored"] = "computed"

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size: {self.image_size} is not a multiple of the patch size of {self.patch_size}; "
                f"use {self.image_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        if self.width % 4:
            raise ConfigError(f"width: {self.width} must be a multiple of 4: positions are sin and cos of x and of y")

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

    vocab_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    # ScratchBuffer for BOS, a token, EOS and CLS.
    context_length: Annotated[int, Ge(4)]
    padding: Literal["attend", "mask"]
    pad_id: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)
        if self.pad_id >= self.vocab_size:
            raise ConfigError(f"pad_id: {self.pad_id} is not in the vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class CaptionerConfig:
    """The captioner: self-attention blocks over image tokens, web caption tokens and learnable queries.

    `condition` "before_norm" reads the text tower's tokens before its final norm (the authors' JAX code),
    "after_norm" after it (their PyTorch code). Image tokens are read before the vision tower's norm in both.
    `inputs` "queries" is CLIPS; "tokens" is CoCa's teacher forcing: no web caption, and each place reads the token before it.
    """

    vocab_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    queries: PositiveInt
    condition: Literal["before_norm", "after_norm"] = "before_norm"
    inputs: Literal["queries", "tokens"] = "queries"

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)


@dataclass(frozen=True)
class ClipsConfig:
    """A whole model; without a captioner it is a pair of towers, as CLIP is.

    Another image size is `replace(config.vision, image_size=...)`: no parameter changes.

    Raises:
        ConfigError: dimensions that do not fit each other, here or in any of the parts. `config.from_mapping` checks ranges.
    """

    vision: VisionConfig
    text: TextConfig
    captioner: CaptionerConfig | None
    embed_dim: PositiveInt

    def __post_init__(self) -> None:
        if self.captioner is not None and self.captioner.vocab_size != self.text.vocab_size:
            raise ConfigError(
                f"captioner.vocab_size: {self.captioner.vocab_size} is not text.vocab_size {self.text.vocab_size}; "
                "one tokenizer writes both, make them equal"
            )


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        near = min((count for count in range(1, width + 1) if width % count == 0), key=lambda count: abs(count - heads))
        raise ConfigError(f"heads: a width of {width} cannot be split into {heads} heads; use {near}, which divides it")


def _model(
    vision: VisionConfig, text: tuple[int, int, int], captioner: tuple[int, int, int], embed_dim: int, vocab_size: int
) -> ClipsConfig:
    """Text tower and captioner are given by width, depth and heads. Lengths and padding are those of the published models."""
    (width, depth, heads), (inner, blocks, inner_heads) = text, captioner
    return ClipsConfig(
        vision=vision,
        text=TextConfig(vocab_size, width, depth, heads, context_length=80, padding="attend"),
        captioner=CaptionerConfig(vocab_size, inner, blocks, inner_heads, queries=128),
        embed_dim=embed_dim,
    )


def _paper(vision: VisionConfig, width: int, depth: int, heads: int) -> ClipsConfig:
    """Text tower and captioner share their size in the paper; the embedding is as wide as both."""
    return _model(vision, (width, depth, heads), (width, depth, heads), width, 32_000)


# CLIP's byte pairs and our specials are 49,413 ids.
_BPE = 49_664
_MINI = (VisionConfig(112, 16, width=192, depth=6, heads=3), (192, 4, 3), (192, 2, 3), 192)
_TI16 = (VisionConfig(112, 16, width=192, depth=12, heads=3), (256, 6, 4), (256, 4, 4), 256)

SIZES: dict[str, ClipsConfig] = {
    "s16": _paper(VisionConfig(224, 16, width=384, depth=12, heads=6), 384, 12, 6),
    "b16": _paper(VisionConfig(224, 16, width=768, depth=12, heads=12), 512, 12, 8),
    "l16": _paper(VisionConfig(224, 16, width=1024, depth=24, heads=16), 768, 12, 12),
    "l14": _paper(VisionConfig(224, 14, width=1024, depth=24, heads=16), 768, 12, 12),
    "h14": _paper(VisionConfig(224, 14, width=1280, depth=32, heads=16), 1024, 24, 16),
    "tiny": _model(VisionConfig(64, 16, width=256, depth=2, heads=4), (128, 1, 2), (64, 1, 1), 128, 1_000),
    "mini": _model(*_MINI, 32_000),
    "mini-bpe": _model(*_MINI, _BPE),
    "ti16": _model(*_TI16, 32_000),
    "ti16-bpe": _model(*_TI16, _BPE),
    "s16-bpe": _model(VisionConfig(224, 16, width=384, depth=12, heads=6), (384, 12, 6), (384, 12, 6), 384, _BPE),
}
"""Models by name.

The paper's sizes are for 224 px and the published table of 32,000 ids. `tiny` is for the embedded data on a laptop's CPU, `mini`
and `ti16` for real photos on small machines; those in -bpe have room for CLIP's byte pairs.
"""


@dataclass(frozen=True)
class TowerSize:
    """Dimensions of a transformer; what is null is the base's.

    Attributes:
        width: of its tokens.
        depth: number of blocks.
        heads: of each block; they divide the width.
    """

    width: Dimension | None = None
    depth: Dimension | None = None
    heads: Dimension | None = None


@dataclass(frozen=True)
class VisionSize(TowerSize):
    """Dimensions of the vision tower; what is null is the base's.

    Attributes:
        image_size: pixels per side, a multiple of the patch size; `train.model.image_size` stands above it.
        patch_size: pixels per side of a patch.
    """

    image_size: Dimension | None = None
    patch_size: Dimension | None = None


@dataclass(frozen=True)
class SizeConfig:
    """A model by its dimensions, in place of a size's name.

    Attributes:
        base: the named size whose dimensions stand where others are null; without one, all have to be given.
        vision: the vision tower.
        text: the text tower.
        captioner: the captioner.
        embed_dim: width of the common embedding.
        vocab_size: ids of the embedding table; at least as many as the tokenizer has.
    """

    base: str | None = None
    vision: VisionSize = field(default_factory=VisionSize)
    text: TowerSize = field(default_factory=TowerSize)
    captioner: TowerSize = field(default_factory=TowerSize)
    embed_dim: Dimension | None = None
    vocab_size: Annotated[int, Ge(1), Le(2**24)] | None = None


def resolve_size(size: str | SizeConfig) -> ClipsConfig:
    """The model that `train.model.size` means.

    Raises:
        ConfigError: an unknown name, a dimension that is missing, or dimensions that do not fit each other.
    """
    known = ", ".join(SIZES)
    name = size if isinstance(size, str) else size.base
    if name is not None and name not in SIZES:
        raise ConfigError(f"{'' if isinstance(size, str) else 'base: '}{name!r} is unknown; sizes are {known}")
    base = None if name is None else SIZES[name]
    if isinstance(size, str):
        return SIZES[size]
    vocab = {"vocab_size": _given(size, base.text if base else None, "vocab_size", "")}

    def part(key: str, config: type[Any], **others: Any) -> Any:
        change, old = getattr(size, key), getattr(base, key, None)
        found = {item.name: _given(change, old, item.name, f"{key}.") for item in fields(change)}
        try:
            return config(**found, **others)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from None

    return ClipsConfig(
        vision=part("vision", VisionConfig),
        text=part("text", TextConfig, **vocab, context_length=80, padding="attend"),
        captioner=part("captioner", CaptionerConfig, **vocab, queries=128),
        embed_dim=_given(size, base, "embed_dim", ""),
    )


def _given(change: Any, base: Any, name: str, prefix: str) -> Any:
    value = getattr(change, name)
    if value is None and base is None:
        raise ConfigError(
            f"{prefix}{name}: missing; give it, or a named size as `base` to take it from: {', '.join(SIZES)}"
        )
    return getattr(base, name) if value is None else value
