"""Caption scores without Java: BLEU-4, ROUGE-L and CIDEr-D.

The formulas are those of COCO's captioning evaluation (Papineni et al. 2002, corpus-level BLEU with the length of the closest
reference; Lin 2004, with beta 1.2; Vedantam et al. 2015, the D variant). Words are runs of letters and digits in lower case,
whereas COCO's tool uses a Java tokenizer. Scores of the two are close but must not be mixed.
Shapes: R corpora, P ratios that BLEU-4 consists of, O orders of n-grams.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ORDERS = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_CIDER_SCALE = 10.0

Words = list[str]
Grams = Counter[tuple[str, ...]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CaptionScore:
    """Contribution of one written caption to the scores of a corpus.

    Attributes:
        rouge_l: ROUGE-L of this caption, between 0 and 1.
        cider: CIDEr-D of this caption, between 0 and 10, with n-gram frequencies over the whole set.
        matches: number of n-grams of each order that occur in a reference, clipped to their count there.
        ngrams: number of n-grams of each order in the caption.
        words: number of words of the caption.
        reference_words: number of words of the reference with the closest length.
    """

    rouge_l: float
    cider: float
    matches: tuple[int, ...]
    ngrams: tuple[int, ...]
    words: int
    reference_words: int


def words(text: str) -> Words:
    """Return the words of a text."""
    return _WORD.findall(text.lower())


def score_captions(written: Sequence[str], references: Sequence[Sequence[str]]) -> list[CaptionScore]:
    """Score every caption.

    Args:
        written: one caption per image.
        references: reference captions of the same images, at least one each.

    Raises:
        ValueError: there are no images, the lengths differ, or an image has no reference.
    """
    if not written or len(written) != len(references):
        raise ValueError(f"{len(written)} captions for {len(references)} images; give one caption per image")
    if not all(references):
        raise ValueError("an image has no reference caption")
    written_words = [words(text) for text in written]
    reference_words = [[words(text) for text in texts] for texts in references]
    return [
        CaptionScore(rouge_l(own, others), score, *_clipped_counts(own, others), len(own), _nearest_length(own, others))
        for own, others, score in zip(
            written_words, reference_words, cider(written_words, reference_words), strict=True
        )
    ]


def corpus_scores(captions: Sequence[CaptionScore]) -> dict[str, float]:
    """Combine the captions of a set, at least one, into the three scores.

    Returns:
        `bleu4` and `rouge_l` between 0 and 1, `cider` between 0 and 10.
    """
    above = [sum(c.matches[order] for c in captions) for order in range(_ORDERS)]
    below = [sum(c.ngrams[order] for c in captions) for order in range(_ORDERS)]
    above += [sum(c.reference_words for c in captions), len(captions)]
    below += [sum(c.words for c in captions), len(captions)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_RP = np.array([above], np.float64) / np.array([below], np.float64)
    return {
        "bleu4": float(bleu4_of_ratios(ratio_RP)[0]),
        "rouge_l": math.fsum(c.rouge_l for c in captions) / len(captions),
        "cider": math.fsum(c.cider for c in captions) / len(captions),
    }


def bleu4_of_ratios(ratio_RP: Array) -> Array:
    """Compute BLEU-4: the geometric mean of the clipped n-gram precisions up to order 4, times the brevity penalty.

    Args:
        ratio_RP: six ratios per corpus: four precisions, reference words over written words, and captions over captions. The
            last is 1, or NaN if the corpus has no captions. Another is NaN if no caption is long enough.

    Returns:
        (R,) between 0 and 1; 0 if an order has no match (no smoothing), NaN for a corpus without captions.
    """
    precision_RO, longer_R, any_R = ratio_RP[:, :_ORDERS], ratio_RP[:, _ORDERS], ratio_RP[:, _ORDERS + 1]
    matched_R = np.all(precision_RO > 0, axis=1)
    # Rows without a match are set to 0 below.
    mean_log_R = np.log(np.where(matched_R[:, np.newaxis], precision_RO, 1.0)).mean(axis=1)
    penalty_R = np.minimum(0.0, 1.0 - np.where(matched_R, longer_R, 1.0))
    return np.asarray(any_R * np.where(matched_R, np.exp(mean_log_R + penalty_R), 0.0))


def rouge_l(own: Words, others: Sequence[Words]) -> float:
    """Compute the F-score of the longest common subsequence, with precision and recall each of the best reference."""
    common = [_longest_common(own, other) for other in others]
    precision = max(n / len(own) for n in common) if own else 0.0
    recall = max((n / len(other) for n, other in zip(common, others, strict=True) if other), default=0.0)
    if not (precision and recall):
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def cider(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Compute CIDEr-D of each caption, 0 to 10: similarity of n-gram counts weighted by inverse document frequency.

    With a single image every n-gram occurs in every image, and the score is 0.
    """
    images = len(references)
    seen: Counter[tuple[str, ...]] = Counter()
    for others in references:
        seen.update({gram for other in others for order in range(1, _ORDERS + 1) for gram in _grams(other, order)})
    found = []
    for own, others in zip(written, references, strict=True):
        own_weights, total = _tf_idf(own, seen, images), 0.0
        for other in others:
            weights = _tf_idf(other, seen, images)
            length_penalty = math.exp(-((len(own) - len(other)) ** 2) / (2 * _CIDER_SIGMA**2))
            similarity = sum(_clipped_cosine(a, b) for a, b in zip(own_weights, weights, strict=True)) / _ORDERS
            total += similarity * length_penalty / len(others)
        found.append(_CIDER_SCALE * total)
    return found


def _clipped_counts(own: Words, others: Sequence[Words]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of clipped matches and of n-grams of each order."""
    matches, ngrams = [], []
    for order in range(1, _ORDERS + 1):
        found = _grams(own, order)
        most: Grams = Counter()
        for other in others:
            most |= _grams(other, order)
        matches.append(sum((found & most).values()))
        ngrams.append(sum(found.values()))
    return tuple(matches), tuple(ngrams)


def _nearest_length(own: Words, others: Sequence[Words]) -> int:
    # Of two equally close lengths, the shorter.
    return min((len(other) for other in others), key=lambda n: (abs(n - len(own)), n))


def _grams(text: Words, order: int) -> Grams:
    return Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))


def _longest_common(a: Words, b: Words) -> int:
    before = [0] * (len(b) + 1)
    for word in a:
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if word == other else max(before[place + 1], row[place]))
        before = row
    return before[-1]


def _tf_idf(text: Words, seen: Counter[tuple[str, ...]], images: int) -> list[dict[tuple[str, ...], float]]:
    """Return TF-IDF weights of the n-grams of each order."""
    return [
        {gram: n * math.log(images / max(1, seen[gram])) for gram, n in _grams(text, order).items()}
        for order in range(1, _ORDERS + 1)
    ]


def _clipped_cosine(written: dict[tuple[str, ...], float], reference: dict[tuple[str, ...], float]) -> float:
    """Compute the cosine with weights clipped to the reference's, so that repetition does not raise the score."""
    product = sum(
        min(weight, reference[gram]) * reference[gram] for gram, weight in written.items() if gram in reference
    )
    size = math.sqrt(sum(w * w for w in written.values())) * math.sqrt(sum(w * w for w in reference.values()))
    return product / size if size else 0.0
