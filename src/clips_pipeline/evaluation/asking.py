"""Captions asked for their images, and images for their captions.

Legend of suffixes: N images, M captions, E embedding width.
"""

from collections.abc import Sequence

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.exhibiting import Asked
from clips_pipeline.evaluation.retrieval import FloatArray, retrieval_ranks
from clips_pipeline.evaluation.zero_shot import EncodeTexts


def ask(
    name: str, image_NE: FloatArray, texts: Sequence[str], owners: Sequence[int], encode_texts: EncodeTexts
) -> Asked:
    """Embed captions and rank both ways.

    Captions longer than the text encoder's context are cut to it, as in training. Of a long caption only the beginning is
    compared, then, and two that begin alike are a tie, which counts against the model.

    Args:
        name: of the retrieval, such as `retrieval/scenes`, for the message.
        image_NE: embeddings of length one.
        texts: the M captions, one at least.
        owners: for each caption, the row of its image; an image may have any number of captions.
        encode_texts: texts to (M, E) embeddings of length one.

    Raises:
        ConfigError: an embedding is NaN or infinite.
    """
    text_ME = np.asarray(encode_texts(texts), dtype=np.float32)
    owner_M = np.array(owners, dtype=np.int64)
    try:
        return Asked(text_ME, owner_M, texts, retrieval_ranks(image_NE, text_ME, owner_M))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
