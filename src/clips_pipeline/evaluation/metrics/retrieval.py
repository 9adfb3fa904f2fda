"""Image-text retrieval in both directions: recall@k, with any number of captions per image.

Definitions, for embeddings with unit norm and scores that are their dot products:

- Image to text: every caption of every image is a candidate. The rank of an image is the number of *other images'*
  captions that score at least as high as the best of its own. An image counts at k if any of its captions is in the top k.
- Text to image: every image is a candidate. The rank of a caption is the number of other images that score at least as
  high as its own image. Each caption is a query of its own.
- Ties are pessimistic: a competitor with an equal score ranks before the right answer. Constant embeddings therefore have a
  recall of 0, whereas an optimistic rule (or an index sort) would give 1. Scores closer than `TIE_TOLERANCE` are equal,
  since a float32 matrix product may round two equal dot products differently.

Ranks count from 0. Shapes: N images, M captions, E embedding width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError

RECALL_AT = (1, 5, 10)
TIE_TOLERANCE = 1e-6
NO_CAPTION = -1

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
EncodeTexts = Callable[[Sequence[str]], npt.NDArray[Any]]
"""Maps texts to (len, E) embeddings."""


@dataclass(frozen=True)
class RetrievalRanks:
    """Number of competitors ranked before the right answer.

    Attributes:
        image_to_text: (N,), per image; `NO_CAPTION` if the image has none (it remains a candidate).
        text_to_image: (M,), per caption.
    """

    image_to_text: IntArray
    text_to_image: IntArray


@dataclass(frozen=True)
class RetrievalResult:
    """Captions with embeddings and ranks.

    Attributes:
        embeddings: (M, E) caption embeddings.
        owners: (M,) for each caption, the number of its image.
        texts: the M captions.
        ranks: ranks of both directions.
    """

    embeddings: FloatArray
    owners: IntArray
    texts: Sequence[str]
    ranks: RetrievalRanks


def rank_captions(
    name: str, image_NE: FloatArray, texts: Sequence[str], owners: Sequence[int], encode_texts: EncodeTexts
) -> RetrievalResult:
    """Embed captions and compute the ranks of both directions.

    Captions longer than the text tower's context are truncated, as in training. Two long captions with the same beginning are
    therefore a tie, which counts against the model.

    Args:
        name: name of the retrieval for error messages, such as `retrieval/scenes`.
        image_NE: image embeddings with unit norm.
        texts: the M captions, at least one.
        owners: for each caption, the row of its image; an image may have any number of captions.
        encode_texts: returns embeddings with unit norm.

    Raises:
        ConfigError: an embedding is NaN or infinite.
    """
    text_ME = np.asarray(encode_texts(texts), dtype=np.float32)
    owner_M = np.array(owners, dtype=np.int64)
    try:
        return RetrievalResult(text_ME, owner_M, texts, retrieval_ranks(image_NE, text_ME, owner_M))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def retrieval_ranks(
    image_NE: npt.NDArray[Any], text_ME: npt.NDArray[Any], owner_M: npt.NDArray[Any], *, score_budget: int = 4_000_000
) -> RetrievalRanks:
    """Compute the ranks of both directions without holding the whole (N, M) score matrix.

    Args:
        image_NE: L2-normalized image embeddings.
        text_ME: L2-normalized caption embeddings.
        owner_M: for each caption, the row of its image in `image_NE`; in any order.
        score_budget: number of scores held at a time (4 bytes each; at least one row).

    Raises:
        ValueError: arrays are empty or do not match, an owner is out of range, or an embedding is not finite.
    """
    image_NE, text_ME, owner_M = _validate(image_NE, text_ME, owner_M)
    return RetrievalRanks(
        image_to_text=_image_to_text(image_NE, text_ME, owner_M, max(1, score_budget // len(text_ME))),
        text_to_image=_text_to_image(image_NE, text_ME, owner_M, max(1, score_budget // len(image_NE))),
    )


def recall(rank_X: npt.NDArray[Any], k: int) -> float:
    """Return the fraction of queries whose right answer is among the first `k`. Queries without an answer do not count.

    Raises:
        ValueError: no query has an answer, or `k` is below 1.
    """
    answerable = rank_X[rank_X != NO_CAPTION]
    if k < 1:
        raise ValueError(f"recall@{k}: k must be 1 or more")
    if not len(answerable):
        raise ValueError("recall of no queries: no image has a caption")
    return float(np.count_nonzero(answerable < k) / len(answerable))


def recall_metrics(ranks: RetrievalRanks, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Compute `image_to_text_recall@k`, `text_to_image_recall@k`, and `mean_recall@1` of the two directions, in [0, 1]."""
    directions = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    metrics = {f"{name}_recall@{k}": recall(rank_X, k) for name, rank_X in directions.items() for k in at}
    metrics["mean_recall@1"] = (recall(ranks.image_to_text, 1) + recall(ranks.text_to_image, 1)) / 2
    return metrics


def chance_recall(owner_M: npt.NDArray[Any], images: int, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Compute the expected recall of a random order, under the names of `recall_metrics`.

    Image to text, for an image with c of M captions: one minus the probability that k draws without replacement miss all c.
    """
    captions = len(owner_M)
    counts_N = np.bincount(np.asarray(owner_M, dtype=np.int64), minlength=images)
    chance: dict[str, float] = {}
    for k in at:
        found = [1.0 - _miss_all(captions, int(count), k) for count in counts_N if count]
        chance[f"image_to_text_recall@{k}"] = float(np.mean(found))
        chance[f"text_to_image_recall@{k}"] = min(1.0, k / images)
    found = [count / captions for count in counts_N if count]
    chance["mean_recall@1"] = (float(np.mean(found)) + 1.0 / images) / 2
    return chance


def _miss_all(total: int, own: int, draws: int) -> float:
    miss = 1.0
    for i in range(min(draws, total)):
        miss *= max(0, total - own - i) / (total - i)
    return miss


def _image_to_text(image_NE: FloatArray, text_ME: FloatArray, owner_M: IntArray, rows: int) -> IntArray:
    by_owner_M = np.argsort(owner_M, kind="stable")
    starts = np.searchsorted(owner_M[by_owner_M], np.arange(len(image_NE) + 1))
    rank_N = np.full(len(image_NE), NO_CAPTION, dtype=np.int64)
    for low in range(0, len(image_NE), rows):
        high = min(low + rows, len(image_NE))
        score_RM = image_NE[low:high] @ text_ME.T
        own = by_owner_M[starts[low] : starts[high]]
        row_of_own = owner_M[own] - low
        own_score = score_RM[row_of_own, own]
        best_R = np.full(high - low, -np.inf, dtype=np.float32)
        np.maximum.at(best_R, row_of_own, own_score)
        bar_R = best_R - np.float32(TIE_TOLERANCE)
        # The image's own captions are not competitors.
        ahead_R = np.count_nonzero(score_RM >= bar_R[:, None], axis=1)
        own_ahead_R = np.bincount(row_of_own, weights=own_score >= bar_R[row_of_own], minlength=high - low)
        has_caption_R = np.isfinite(best_R)
        rank_N[low:high][has_caption_R] = (ahead_R - own_ahead_R.astype(np.int64))[has_caption_R]
    return rank_N


def _text_to_image(image_NE: FloatArray, text_ME: FloatArray, owner_M: IntArray, rows: int) -> IntArray:
    rank_M = np.empty(len(text_ME), dtype=np.int64)
    for low in range(0, len(text_ME), rows):
        owner_R = owner_M[low : low + rows]
        score_RN = text_ME[low : low + rows] @ image_NE.T
        bar_R = score_RN[np.arange(len(owner_R)), owner_R] - np.float32(TIE_TOLERANCE)
        rank_M[low : low + rows] = np.count_nonzero(score_RN >= bar_R[:, None], axis=1) - 1
    return rank_M


def _validate(
    image_NE: npt.NDArray[Any], text_ME: npt.NDArray[Any], owner_M: npt.NDArray[Any]
) -> tuple[FloatArray, FloatArray, IntArray]:
    image_NE = np.asarray(image_NE, dtype=np.float32)
    text_ME = np.asarray(text_ME, dtype=np.float32)
    owner_M = np.asarray(owner_M, dtype=np.int64)
    if image_NE.ndim != 2 or text_ME.ndim != 2 or image_NE.shape[1] != text_ME.shape[1]:
        raise ValueError(f"embeddings must be (N, E) and (M, E), found {image_NE.shape} and {text_ME.shape}")
    if not len(image_NE) or not len(text_ME):
        raise ValueError(f"retrieval needs images and captions, found {len(image_NE)} and {len(text_ME)}")
    if owner_M.shape != (len(text_ME),):
        raise ValueError(f"one owner per caption: expected shape ({len(text_ME)},), found {owner_M.shape}")
    if owner_M.min() < 0 or owner_M.max() >= len(image_NE):
        raise ValueError(f"owners must be rows of the {len(image_NE)} images, found {owner_M.min()} to {owner_M.max()}")
    for name, embedding in (("image", image_NE), ("caption", text_ME)):
        if not np.isfinite(embedding).all():
            raise ValueError(f"{name} embeddings contain NaN or infinity: the model has diverged")
    return image_NE, text_ME, owner_M
