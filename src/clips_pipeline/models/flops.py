"""Floating-point operations of one sample, counted from the matrix products (2 per multiply-add).

Normalisations, activations and softmaxes are left out, as is usual: they are below 2 % at the named sizes.
"""

from clips_pipeline.models.sizes import ClipsConfig


def _blocks(tokens: int, width: int, depth: int) -> int:
    """Pre-norm blocks with an MLP ratio of 4: four D x D projections and 8 D x D for the MLP, then attention."""
    projections = 2 * tokens * 12 * width * width
    attention = 4 * tokens * tokens * width
    return depth * (projections + attention)


def forward_flops_by_part(
    config: ClipsConfig, web_length: int, fragment_length: int, target_length: int
) -> dict[str, int]:
    """Operations of one sample's forward pass, by part of the model.

    Args:
        config: the model.
        web_length: tokens of the web caption row that are computed, with BOS, EOS and CLS.
        fragment_length: likewise for the fragment's row; 0 for none.
        target_length: query positions computed.

    Returns:
        `vision tower`, `text tower` (all its rows), and where there is a captioner `captioner` and `vocabulary head`.
    """
    vision, text, captioner = config.vision, config.text, config.captioner
    patches = (vision.image_size // vision.patch_size) ** 2
    parts = {
        "vision tower": 2 * patches * 3 * vision.patch_size**2 * vision.width
        + _blocks(patches + 1, vision.width, vision.depth)
        + 2 * vision.width * config.embed_dim,
        "text tower": sum(
            _blocks(length, text.width, text.depth) + 2 * text.width * config.embed_dim
            for length in (web_length, fragment_length)
            if length
        ),
    }
    if captioner is not None:
        # Teacher forcing (`inputs: tokens`) does not read the web caption.
        web = web_length - 1 if captioner.inputs == "queries" else 0
        projections = 2 * captioner.width * (patches * vision.width + web * text.width)
        parts["captioner"] = projections + _blocks(patches + web + target_length, captioner.width, captioner.depth)
        parts["vocabulary head"] = 2 * target_length * captioner.width * captioner.vocab_size
    return parts


def forward_flops(config: ClipsConfig, web_length: int, fragment_length: int, target_length: int) -> int:
    """Operations of one sample's forward pass through all parts; see `forward_flops_by_part`."""
    return sum(forward_flops_by_part(config, web_length, fragment_length, target_length).values())


def training_flops(config: ClipsConfig, web_length: int, fragment_length: int, target_length: int) -> int:
    """Forward and backward of one sample: the backward pass costs twice the forward."""
    return 3 * forward_flops(config, web_length, fragment_length, target_length)
