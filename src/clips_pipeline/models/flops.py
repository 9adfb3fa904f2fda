"""Floating-point operations of one sample, counted from the matrix products (2 per multiply-add).

Norms, activations and softmaxes are left out, as is usual: they are below 2 % at the named sizes.
"""

from collections.abc import Sequence

from clips_pipeline.models.sizes import ClipsConfig


def _projections(queries: int, tokens: int, width: int) -> int:
    """Return the operations of a block's linear layers: keys and values of all tokens; query, output and MLP of the queries."""
    return 2 * (2 * tokens + 10 * queries) * width * width


def _blocks(tokens: int, width: int, depth: int) -> int:
    """Return the operations of blocks with an MLP ratio of 4 in which every token attends to every token."""
    return depth * (_projections(tokens, tokens, width) + 4 * tokens * tokens * width)


def _pooled_blocks(tokens: int, width: int, depth: int) -> int:
    """Return the operations of `_blocks` whose last block is computed at one position only."""
    return _blocks(tokens, width, depth - 1) + _projections(1, tokens, width) + 4 * tokens * width


def _captioner(prefix: int, queries: int, width: int, depth: int) -> int:
    """Return the operations of the captioner's blocks, with the masked half of the attention; the last block has queries only."""
    tokens, query_attention = prefix + queries, 4 * queries * (prefix + queries) * width
    inner = _projections(tokens, tokens, width) + 4 * prefix * prefix * width + query_attention
    return (depth - 1) * inner + _projections(queries, tokens, width) + query_attention


def forward_flops_by_part(
    config: ClipsConfig,
    web_length: int,
    fragment_length: int | Sequence[int],
    target_length: int,
    image_tokens_kept: float = 1.0,
) -> dict[str, int]:
    """Return the operations of one sample's forward pass, by part of the model.

    Args:
        config: the model.
        web_length: computed tokens of the web caption's row, with BOS, EOS and CLS.
        fragment_length: computed tokens of the fragment's row, or of the rows of several; 0 without a fragment.
        target_length: computed query positions.
        image_tokens_kept: fraction of the image tokens that the captioner reads.

    Returns:
        `vision tower`, `text tower` (all rows) if there is one, and with a captioner `captioner` and `vocabulary head`.
    """
    vision, text, captioner = config.vision, config.text, config.captioner
    patches = (vision.image_size // vision.patch_size) ** 2
    parts = {
        "vision tower": 2 * patches * 3 * vision.patch_size**2 * vision.width
        + _blocks(patches + 1, vision.width, vision.depth)
        + (2 * vision.width * config.embed_dim if config.text_tower else 0),
    }
    if config.text_tower:
        parts["text tower"] = _blocks(web_length, text.width, text.depth) + 2 * text.width * config.embed_dim
        for length in (fragment_length,) if isinstance(fragment_length, int) else fragment_length:
            if length:
                parts["text tower"] += (
                    _pooled_blocks(length, text.width, text.depth) + 2 * text.width * config.embed_dim
                )
    if captioner is not None:
        # Teacher forcing (`inputs: tokens`) does not read the web caption.
        web = web_length - 1 if captioner.inputs == "queries" else 0
        read = patches if image_tokens_kept == 1.0 else max(1, round(patches * image_tokens_kept))
        projections = 2 * captioner.width * (read * vision.width + web * text.width)
        parts["captioner"] = projections + _captioner(read + web, target_length, captioner.width, captioner.depth)
        parts["vocabulary head"] = 2 * target_length * captioner.width * captioner.vocab_size
    return parts


def forward_flops(
    config: ClipsConfig,
    web_length: int,
    fragment_length: int | Sequence[int],
    target_length: int,
    image_tokens_kept: float = 1.0,
) -> int:
    """Return the operations of one sample's forward pass; see `forward_flops_by_part`."""
    return sum(forward_flops_by_part(config, web_length, fragment_length, target_length, image_tokens_kept).values())


def training_flops(
    config: ClipsConfig,
    web_length: int,
    fragment_length: int | Sequence[int],
    target_length: int,
    image_tokens_kept: float = 1.0,
) -> int:
    """Return the operations of one sample, forward and backward: the backward pass costs twice the forward pass."""
    return 3 * forward_flops(config, web_length, fragment_length, target_length, image_tokens_kept)
