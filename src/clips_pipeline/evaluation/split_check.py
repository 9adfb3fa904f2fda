"""Whether a split is the one that is meant: its sizes, and captions for all of its images.

A published number belongs to a published set. A few images fewer, or images that nobody asks for, give another number under
the same key.
"""

import logging
from collections.abc import Sequence

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig

log = logging.getLogger(__name__)

_KEYS_NAMED = 5


def check_expected_sizes(config: EvaluationConfig, images: int, captions: int | None = None) -> None:
    """Compare what a split has with `evaluate.expected`.

    Args:
        config: what is expected; null is not compared.
        images: of the split.
        captions: that its images are asked for; None where they are not counted yet.

    Raises:
        ConfigError: another number; one message names every key that does not fit.
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
    """See that all images have captions of a kind, or none has.

    An image without a caption is no query, but stays among the candidates. Recall over the others is that of another,
    smaller set, so it has to be asked for.

    Args:
        config: `missing_captions` says whether to refuse, or to warn and leave them out.
        keys: of the images.
        owners: for each caption, the number of its image.
        kind: of the captions, for the message.

    Raises:
        ConfigError: some images have captions and others none, and these are not to be skipped.
    """
    have = set(owners)
    missing = [key for number, key in enumerate(keys) if number not in have]
    if not have or not missing:
        return
    named = ", ".join(missing[:_KEYS_NAMED]) + (", …" if len(missing) > _KEYS_NAMED else "")
    told = (
        f"{len(missing)} of {len(keys)} images in the {config.split} split of {config.set_name} have no {kind} caption"
    )
    if config.missing_captions == "skip":
        log.warning("%s and are left out as queries: %s", told, named)
        return
    raise ConfigError(
        f"evaluate: {told}: {named}; prepare the set with a caption for each image, or set evaluate.missing_captions to skip "
        "to leave them out as queries"
    )
