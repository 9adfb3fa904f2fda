"""How near written captions come to reference captions, by words: BLEU-4, ROUGE-L and CIDEr-D, in plain Python.

The formulas are those that COCO's captioning task made usual (Papineni et al. 2002, corpus-level BLEU with the closest reference's
length; Lin 2004, with beta 1.2; Vedantam et al. 2015, the D variant). Words are runs of letters and digits in lower case, where
COCO's own tool runs a Java tokenizer; scores of the two are near each other but not to be mixed.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ORDERS = 4
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_CIDER_SCALE = 10.0

Words = list[str]
Grams = Counter[tuple[str, ...]]


def words(text: str) -> Words:
    """What counts as a word."""
    return _WORD.findall(text.lower())


def caption_scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """All three scores.

    Args:
        written: one caption an image.
        references: of the same images, one or more each.

    Returns:
        `bleu4` and `rouge_l` between 0 and 1, `cider` between 0 and 10.

    Raises:
        ValueError: no image, numbers that differ, or an image without a reference.
    """
    if not written or len(written) != len(references):
        raise ValueError(f"{len(written)} captions for {len(references)} images; one each is needed")
    if not all(references):
        raise ValueError("an image has no reference caption")
    made = [words(text) for text in written]
    wanted = [[words(text) for text in texts] for texts in references]
    return {"bleu4": bleu4(made, wanted), "rouge_l": rouge_l(made, wanted), "cider": cider(made, wanted)}


def bleu4(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Geometric mean of the corpus's clipped n-gram precisions up to 4, times the penalty for being short.

    0 where some order has no match at all, as without smoothing.
    """
    hits, tries = [0] * _ORDERS, [0] * _ORDERS
    length = reference_length = 0
    for own, others in zip(written, references, strict=True):
        length += len(own)
        # Of two equally near, the shorter.
        reference_length += min((len(other) for other in others), key=lambda n: (abs(n - len(own)), n))
        for order in range(1, _ORDERS + 1):
            found = _grams(own, order)
            most: Grams = Counter()
            for other in others:
                most |= _grams(other, order)
            hits[order - 1] += sum((found & most).values())
            tries[order - 1] += sum(found.values())
    if not all(hits):
        return 0.0
    mean_log = sum(math.log(hit / tried) for hit, tried in zip(hits, tries, strict=True)) / _ORDERS
    return math.exp(mean_log + min(0.0, 1.0 - reference_length / length))


def rouge_l(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Mean F-score of the longest common subsequence; precision and recall each of the best reference."""
    total = 0.0
    for own, others in zip(written, references, strict=True):
        common = [_longest_common(own, other) for other in others]
        precision = max(n / len(own) for n in common) if own else 0.0
        recall = max((n / len(other) for n, other in zip(common, others, strict=True) if other), default=0.0)
        if precision and recall:
            total += (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)
    return total / len(written)


def cider(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D: likeness of n-grams weighted by how rare they are among the images' references; 0 to 10.

    With one image every n-gram is in every image, and the score is 0.
    """
    images = len(references)
    seen: Counter[tuple[str, ...]] = Counter()
    for others in references:
        seen.update({gram for other in others for order in range(1, _ORDERS + 1) for gram in _grams(other, order)})
    total = 0.0
    for own, others in zip(written, references, strict=True):
        made = _weighted(own, seen, images)
        for other in others:
            wanted = _weighted(other, seen, images)
            short = math.exp(-((len(own) - len(other)) ** 2) / (2 * _CIDER_SIGMA**2))
            alike = sum(_likeness(a, b) for a, b in zip(made, wanted, strict=True)) / _ORDERS
            total += alike * short / len(others)
    return _CIDER_SCALE * total / images


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
