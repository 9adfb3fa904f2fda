"""Checks that a split is the expected one: its sizes, and captions for all of its images.

A published metric refers to a published set. Missing images, or images without captions, change the value under the same key.
"""

import logging
from collections.abc import Sequence

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig

log = logging.getLogger(__name__)

_KEYS_NAMED = 5


def check_expected_sizes(config: EvaluationConfig, images: int, captions: int | None = None) -> None:
    """Compare the sizes of a split with `evaluate.expected`.

    Args:
        config: expected sizes; null is not checked.
        images: number of images of the split.
        captions: number of its retrieval captions; None if they are not counted yet.

    Raises:
        ConfigError: a size differs; the message names every key that differs.
    """
    expected = config.expected
    sizes = (("images", images, expected.images), ("captions", captions, expected.captions))
    wrong = [
        f"evaluate.expected.{name} is {wanted}, found {found}"
        for name, found, wanted in sizes
        if None not in (found, wanted) and found != wanted
    ]
    if wrong:
        raise ConfigError(
            f"{' and '.join(wrong)} in the {config.split} split of {config.set_name}; prepare the whole set (index.json counts "
            "the samples that were left out), or correct the number (null: not checked)"
        )


def check_missing_captions(
    config: EvaluationConfig, keys: Sequence[str], owners: Sequence[int], kind: str = "retrieval"
) -> None:
    """Check that either all images have captions of a kind, or none has.

    An image without captions is not a query but remains a candidate. Recall over the other images is recall on a different,
    smaller set of queries, so it must be requested explicitly.

    Args:
        config: `missing_captions` selects between an error, and a warning that leaves the images out.
        keys: keys of the images.
        owners: for each caption, the number of its image.
        kind: kind of the captions, for the message.

    Raises:
        ConfigError: only some images have captions, and `missing_captions` is "refuse".
    """
    have = set(owners)
    missing = [key for number, key in enumerate(keys) if number not in have]
    if not have or not missing:
        return
    named = ", ".join(missing[:_KEYS_NAMED]) + (", …" if len(missing) > _KEYS_NAMED else "")
    message = (
        f"{len(missing)} of {len(keys)} images in the {config.split} split of {config.set_name} have no {kind} caption"
    )
    if config.missing_captions == "skip":
        log.warning("%s and are left out as queries: %s", message, named)
        return
    raise ConfigError(
        f"evaluate: {message}: {named}; prepare the set with a caption for each image, or set evaluate.missing_captions to skip "
        "to leave them out as queries"
    )
