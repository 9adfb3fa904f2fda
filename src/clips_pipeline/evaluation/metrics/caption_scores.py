"""How near written captions come to reference captions, by words: BLEU-4, ROUGE-L and CIDEr-D, without Java.

The formulas are those that COCO's captioning task made usual (Papineni et al. 2002, corpus-level BLEU with the closest reference's
length; Lin 2004, with beta 1.2; Vedantam et al. 2015, the D variant). Words are runs of letters and digits in lower case, where
COCO's own tool runs a Java tokenizer; scores of the two are near each other but not to be mixed.
Legend of suffixes: R corpora, P quotients that BLEU-4 is made of, O orders of n-grams.
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
    """What one written caption adds to the scores of a corpus.

    Attributes:
        rouge_l: of this caption, between 0 and 1.
        cider: of this caption, between 0 and 10; how rare an n-gram is was counted over the whole set.
        matches: n-grams of each order that are in a reference, as often as there at most.
        ngrams: of each order, written.
        words: written.
        reference_words: of the reference whose length is nearest.
    """

    rouge_l: float
    cider: float
    matches: tuple[int, ...]
    ngrams: tuple[int, ...]
    words: int
    reference_words: int


def words(text: str) -> Words:
    """What counts as a word."""
    return _WORD.findall(text.lower())


def score_captions(written: Sequence[str], references: Sequence[Sequence[str]]) -> list[CaptionScore]:
    """Score every caption.

    Args:
        written: one caption an image.
        references: of the same images, one or more each.

    Raises:
        ValueError: no image, numbers that differ, or an image without a reference.
    """
    if not written or len(written) != len(references):
        raise ValueError(f"{len(written)} captions for {len(references)} images; one each is needed")
    if not all(references):
        raise ValueError("an image has no reference caption")
    made = [words(text) for text in written]
    wanted = [[words(text) for text in texts] for texts in references]
    return [
        CaptionScore(rouge_l(own, others), alike, *_clipped(own, others), len(own), _nearest_length(own, others))
        for own, others, alike in zip(made, wanted, cider(made, wanted), strict=True)
    ]


def corpus_scores(captions: Sequence[CaptionScore]) -> dict[str, float]:
    """All three scores of the captions of a set, one at least.

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
    """Geometric mean of the corpus's clipped n-gram precisions up to 4, times the penalty for being short.

    Args:
        ratio_RP: of each corpus six quotients: four precisions, words of the references over words written, and captions over
            captions. The last is 1, or NaN where a corpus has no caption; another is NaN where nothing is so long.

    Returns:
        (R,) between 0 and 1; 0 where some order has no match at all, as without smoothing; NaN without a caption.
    """
    precision_RO, longer_R, any_R = ratio_RP[:, :_ORDERS], ratio_RP[:, _ORDERS], ratio_RP[:, _ORDERS + 1]
    matched_R = np.all(precision_RO > 0, axis=1)
    # The other rows are 0 whatever is computed for them.
    mean_log_R = np.log(np.where(matched_R[:, np.newaxis], precision_RO, 1.0)).mean(axis=1)
    penalty_R = np.minimum(0.0, 1.0 - np.where(matched_R, longer_R, 1.0))
    return np.asarray(any_R * np.where(matched_R, np.exp(mean_log_R + penalty_R), 0.0))


def rouge_l(own: Words, others: Sequence[Words]) -> float:
    """F-score of the longest common subsequence; precision and recall each of the best reference."""
    common = [_longest_common(own, other) for other in others]
    precision = max(n / len(own) for n in common) if own else 0.0
    recall = max((n / len(other) for n, other in zip(common, others, strict=True) if other), default=0.0)
    if not (precision and recall):
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def cider(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption: likeness of n-grams weighted by how rare they are among the images' references; 0 to 10.

    With one image every n-gram is in every image, and the score is 0.
    """
    images = len(references)
    seen: Counter[tuple[str, ...]] = Counter()
    for others in references:
        seen.update({gram for other in others for order in range(1, _ORDERS + 1) for gram in _grams(other, order)})
    found = []
    for own, others in zip(written, references, strict=True):
        made, total = _weighted(own, seen, images), 0.0
        for other in others:
            wanted = _weighted(other, seen, images)
            short = math.exp(-((len(own) - len(other)) ** 2) / (2 * _CIDER_SIGMA**2))
            alike = sum(_likeness(a, b) for a, b in zip(made, wanted, strict=True)) / _ORDERS
            total += alike * short / len(others)
        found.append(_CIDER_SCALE * total)
    return found


def _clipped(own: Words, others: Sequence[Words]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Matches and n-grams of each order."""
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
    # Of two equally near, the shorter.
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


def _weighted(text: Words, seen: Counter[tuple[str, ...]], images: int) -> list[dict[tuple[str, ...], float]]:
    """Counts of n-grams of each order times the logarithm of how few images have them."""
    return [
        {gram: n * math.log(images / max(1, seen[gram])) for gram, n in _grams(text, order).items()}
        for order in range(1, _ORDERS + 1)
    ]


def _likeness(made: dict[tuple[str, ...], float], wanted: dict[tuple[str, ...], float]) -> float:
    """Cosine, in which repeating an n-gram more often than the reference does brings nothing."""
    product = sum(min(weight, wanted[gram]) * wanted[gram] for gram, weight in made.items() if gram in wanted)
    size = math.sqrt(sum(w * w for w in made.values())) * math.sqrt(sum(w * w for w in wanted.values()))
    return product / size if size else 0.0
