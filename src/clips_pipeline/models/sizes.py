"""Model configuration: dimensions of all parts, and the named sizes.

Sizes: CLIPS paper, section 4 (S/16, B/16, L/16, L/14, H/14); see docs/explanation/method.md.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, PositiveInt

Dimension = Annotated[int, Ge(1), Le(2**16)]

MLP_RATIO = 4
"""Width of the hidden layer of an MLP, relative to the width of its block."""

EPSILON = 1.0e-6
"""Epsilon of all layer norms (Flax's default, with which the published weights were trained)."""


@dataclass(frozen=True)
class VisionConfig:
    """Vision tower: a pre-norm ViT over square patches, pooled by the mean of its patch tokens.

    `positions` is "computed" for the fixed 2-D sin-cos table (any grid), "stored" for imported weights whose table was trained:
    that table is used as it is, not trained further, and fits one image size only.
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
        """Number of patches of an image of the configured size."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextConfig:
    """Text tower: bidirectional, pooled at its last position, which holds [CLS].

    `padding` "attend" is the published behavior (PAD tokens are keys like any other); "mask" hides them, so that they need not be
    computed.
    """

    vocab_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    # At least BOS, one token, EOS and CLS.
    context_length: Annotated[int, Ge(4)]
    padding: Literal["attend", "mask"]
    pad_id: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)
        if self.pad_id >= self.vocab_size:
            raise ConfigError(f"pad_id: {self.pad_id} is not in the vocabulary of {self.vocab_size}")


@dataclass(frozen=True)
class CaptionerConfig:
    """Captioner: self-attention blocks over image tokens, web caption tokens and learnable queries.

    `condition` "before_norm" reads the text tower's tokens before its final norm (the authors' JAX code), "after_norm" after it
    (their PyTorch code). Image tokens are read before the vision tower's norm in both cases. `inputs` "queries" is CLIPS; "tokens"
    is CoCa's teacher forcing: no web caption, and each position reads the preceding token.
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
    """The whole model; without a captioner it is a pair of towers, as CLIP; without a text tower it only writes captions.

    `contrastive` "sigmoid" adds the bias of that loss to the model. With `text_tower: false` the model has a captioner that reads
    the image and the preceding tokens; `text` then describes the ids, and the feature of an image is the mean of its tokens.

    Another image size (`replace(config.vision, image_size=...)`) changes no parameter.

    Raises:
        ConfigError: dimensions do not fit each other, here or in a part. `config.from_mapping` checks ranges.
    """

    vision: VisionConfig
    text: TextConfig
    captioner: CaptionerConfig | None
    embed_dim: PositiveInt
    contrastive: Literal["softmax", "sigmoid"] = "softmax"
    text_tower: bool = True

    def __post_init__(self) -> None:
        if not self.text_tower and (self.captioner is None or self.captioner.inputs != "tokens"):
            raise ConfigError("text_tower: without one, the model needs a captioner with inputs 'tokens'; set both")
        if not self.text_tower and self.embed_dim != self.vision.width:
            raise ConfigError(
                f"embed_dim: {self.embed_dim}, but without a text tower it is the width of the vision tower; set "
                f"{self.vision.width}"
            )
        if self.captioner is not None and self.captioner.vocab_size != self.text.vocab_size:
            raise ConfigError(
                f"captioner.vocab_size: {self.captioner.vocab_size} is not text.vocab_size {self.text.vocab_size}; "
                "set both to the same number, since one tokenizer serves both"
            )


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        nearest = min(
            (count for count in range(1, width + 1) if width % count == 0), key=lambda count: abs(count - heads)
        )
        raise ConfigError(
            f"heads: a width of {width} cannot be split into {heads} heads; use {nearest}, which divides it"
        )


def _model(
    vision: VisionConfig, text: tuple[int, int, int], captioner: tuple[int, int, int], embed_dim: int, vocab_size: int
) -> ClipsConfig:
    """Return a model whose text tower and captioner have the given width, depth and heads, with published lengths and padding."""
    (width, depth, heads), (inner, blocks, inner_heads) = text, captioner
    return ClipsConfig(
        vision=vision,
        text=TextConfig(vocab_size, width, depth, heads, context_length=80, padding="attend"),
        captioner=CaptionerConfig(vocab_size, inner, blocks, inner_heads, queries=128),
        embed_dim=embed_dim,
    )


def _paper(vision: VisionConfig, width: int, depth: int, heads: int) -> ClipsConfig:
    """Return a model of the paper: text tower and captioner have the same size, and the embedding has their width."""
    return _model(vision, (width, depth, heads), (width, depth, heads), width, 32_000)


# CLIP's byte pairs and our special ids are 49,413 ids.
_BPE = 49_664
_MINI = (VisionConfig(112, 16, width=192, depth=6, heads=3), (192, 4, 3), (192, 2, 3), 192)
_TI16 = (VisionConfig(112, 16, width=192, depth=12, heads=3), (256, 6, 4), (256, 4, 4), 256)

SIZES: dict[str, ClipsConfig] = {
    "s16": _paper(VisionConfig(224, 16, width=384, depth=12, heads=6), 384, 12, 6),
    "b16": _paper(VisionConfig(224, 16, width=768, depth=12, heads=12), 512, 12, 8),
    "l16": _paper(VisionConfig(224, 16, width=1024, depth=24, heads=16), 768, 12, 12),
    "l14": _paper(VisionConfig(224, 14, width=1024, depth=24, heads=16), 768, 12, 12),
    "h14": _paper(VisionConfig(224, 14, width=1280, depth=32, heads=16), 1024, 24, 16),
    "tiny": _model(VisionConfig(64, 32, width=256, depth=2, heads=4), (128, 1, 2), (128, 1, 4), 128, 1_000),
    "mini": _model(*_MINI, 32_000),
    "mini-bpe": _model(*_MINI, _BPE),
    "ti16": _model(*_TI16, 32_000),
    "ti16-bpe": _model(*_TI16, _BPE),
    "s16-bpe": _model(VisionConfig(224, 16, width=384, depth=12, heads=6), (384, 12, 6), (384, 12, 6), 384, _BPE),
}
"""Models by name.

The paper's sizes are for 224 px and the published table of 32,000 ids. `tiny` is for the embedded data on a laptop's CPU; `mini`
and `ti16` are for real photos on small machines; sizes in `-bpe` have a table for CLIP's byte pairs.
"""


@dataclass(frozen=True)
class TowerSize:
    """Dimensions of a transformer; null takes the value of the base.

    Attributes:
        width: width of the tokens.
        depth: number of blocks.
        heads: attention heads of each block; a divisor of the width.
    """

    width: Dimension | None = None
    depth: Dimension | None = None
    heads: Dimension | None = None


@dataclass(frozen=True)
class VisionSize(TowerSize):
    """Dimensions of the vision tower; null takes the value of the base.

    Attributes:
        image_size: pixels per side, a multiple of the patch size; `train.model.image_size` overrides it.
        patch_size: pixels per side of a patch.
    """

    image_size: Dimension | None = None
    patch_size: Dimension | None = None


@dataclass(frozen=True)
class SizeConfig:
    """A model by its dimensions, instead of the name of a size.

    Attributes:
        base: named size that gives the dimensions that are null; without it, all dimensions are required.
        vision: the vision tower.
        text: the text tower.
        captioner: the captioner.
        embed_dim: width of the joint embedding.
        vocab_size: rows of the token embedding table, at least the number of ids of the tokenizer.
    """

    base: str | None = None
    vision: VisionSize = field(default_factory=VisionSize)
    text: TowerSize = field(default_factory=TowerSize)
    captioner: TowerSize = field(default_factory=TowerSize)
    embed_dim: Dimension | None = None
    vocab_size: Annotated[int, Ge(1), Le(2**24)] | None = None


def resolve_size(size: str | SizeConfig) -> ClipsConfig:
    """Return the model configuration for `train.model.size`.

    Raises:
        ConfigError: the name is unknown, a dimension is missing, or dimensions do not fit each other.
    """
    known = ", ".join(SIZES)
    name = size if isinstance(size, str) else size.base
    if name is not None and name not in SIZES:
        raise ConfigError(f"{'' if isinstance(size, str) else 'base: '}{name!r} is unknown; sizes are {known}")
    base = None if name is None else SIZES[name]
    if isinstance(size, str):
        return SIZES[size]
    vocab = {"vocab_size": _dimension(size, base.text if base else None, "vocab_size", "")}

    def part(key: str, config: type[Any], **others: Any) -> Any:
        change, default = getattr(size, key), getattr(base, key, None)
        dimensions = {item.name: _dimension(change, default, item.name, f"{key}.") for item in fields(change)}
        try:
            return config(**dimensions, **others)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from None

    return ClipsConfig(
        vision=part("vision", VisionConfig),
        text=part("text", TextConfig, **vocab, context_length=80, padding="attend"),
        captioner=part("captioner", CaptionerConfig, **vocab, queries=128),
        embed_dim=_dimension(size, base, "embed_dim", ""),
    )


def _dimension(change: Any, base: Any, name: str, prefix: str) -> Any:
    value = getattr(change, name)
    if value is None and base is None:
        raise ConfigError(
            f"{prefix}{name}: missing; give it, or a named size as `base` to take it from: {', '.join(SIZES)}"
        )
    return getattr(base, name) if value is None else value
