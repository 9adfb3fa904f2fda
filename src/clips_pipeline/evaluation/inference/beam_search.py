"""Beam search over the captions of many images at once.

Shapes: B images, W hypotheses of each, Q positions, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from clips_pipeline.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class SpecialIds:
    """Special ids of decoding; `forbidden` ids are never written."""

    bos: int
    eos: int
    forbidden: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, rows: int) -> "SpecialIds":
        """Return the special ids of a tokenizer, for a vocabulary head of `rows` rows, at least as many as it has pieces."""
        unused = range(tokenizer.vocab_size, rows)
        return cls(tokenizer.bos_id, tokenizer.eos_id, (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, *unused))

    def mask(self, log_p: Tensor) -> Tensor:
        """Return log-probabilities (..., V) with minus infinity at ids that are never written."""
        return log_p.masked_fill(_flags((self.bos, *self.forbidden), log_p.shape[-1], log_p.device), -torch.inf)


@lru_cache(maxsize=8)
def _flags(ids: tuple[int, ...], vocabulary: int, device: torch.device) -> Tensor:
    """Return (V,) with True at `ids`, copied to the device once: each copy would wait for it."""
    flags = torch.zeros(vocabulary, dtype=torch.bool)
    flags[list(ids)] = True
    return flags.to(device)


@dataclass(frozen=True)
class Caption:
    """Ids without BOS and EOS, and the sum of their log-probabilities, including EOS if it was written."""

    ids: list[int]
    score: float


class Steps(Protocol):
    """What predicts the next ids, for all hypotheses of all images; `models.cached_decoding.CachedCaptioner` is one."""

    def step(self, ids_BW: Tensor) -> Tensor:
        """Append ids to the hypotheses and return the log-probabilities (B, W, V) of the next ones."""
        ...

    def keep(self, images_b: Tensor, parents_bW: Tensor) -> None:
        """Go on with some of the images; each new hypothesis continues the one that `parents_bW` numbers."""
        ...


class PositionSteps:
    """Steps of a captioner that has predicted all positions at once (method clips).

    Args:
        log_p_BQV: log-probabilities.
    """

    def __init__(self, log_p_BQV: Tensor) -> None:
        self._log_p_BQV, self._position = log_p_BQV, 0

    def step(self, ids_BW: Tensor) -> Tensor:
        """See `Steps`: the ids before a position do not matter."""
        log_p_BV = self._log_p_BQV[:, self._position]
        self._position += 1
        return log_p_BV[:, None].expand(-1, ids_BW.shape[1], -1)

    def keep(self, images_b: Tensor, parents_bW: Tensor) -> None:
        """See `Steps`."""
        if len(images_b) < len(self._log_p_BQV):
            self._log_p_BQV = self._log_p_BQV[images_b]


@torch.no_grad()
def beam_search(
    steps: Steps,
    images: int,
    max_length: int,
    special_ids: SpecialIds,
    *,
    width: int = 4,
    length_penalty: float = 0.0,
    repeat: bool = False,
    device: torch.device | str = "cpu",
) -> list[list[Caption]]:
    """Return the best captions of each image, best first.

    Args:
        steps: prediction of the next ids.
        images: number of images, B.
        max_length: maximum number of ids of a caption, including EOS.
        special_ids: special ids; `forbidden` ones are never written.
        width: beam width.
        length_penalty: captions are ranked by score / length ** length_penalty; 0 ranks by probability.
        repeat: whether an id may occur twice in a row.
        device: device of `steps`.

    Raises:
        ValueError: `width` or `max_length` is below 1.
    """
    if width < 1 or max_length < 1:
        raise ValueError(f"width is {width} and max_length {max_length}; both must be at least 1")
    found: list[list[Caption]] = [[] for _ in range(images)]

    def rank(caption: Caption, eos: int = 0) -> float:
        return caption.score / float(max(1, len(caption.ids) + eos) ** length_penalty)

    searches = [_Search(number, [Caption([], 0.0)], [], rank, length_penalty == 0.0) for number in range(images)]
    last_BW = torch.full((images, 1), special_ids.bos, device=device)
    for length in range(1, max_length + 1):
        if not searches:
            break
        # A copy, because `mask` returns one.
        log_p_BWV = special_ids.mask(steps.step(last_BW))
        if not repeat and length > 1:
            log_p_BWV.scatter_(2, last_BW[..., None], -torch.inf)
        vocabulary, beams = log_p_BWV.shape[2], log_p_BWV.shape[1]
        scores_BW = torch.tensor([search.scores(beams) for search in searches], device=device)
        # At most one continuation of a hypothesis is EOS, so of 2 x width candidates at least `width` continue.
        flat_BC = (log_p_BWV + scores_BW[..., None]).flatten(1)
        best = flat_BC.topk(min(2 * width, flat_BC.shape[1]))
        for search, *candidates in zip(searches, best.values.tolist(), best.indices.tolist(), strict=True):
            search.extend(candidates[0], candidates[1], vocabulary, width, special_ids.eos)
        going = [place for place, search in enumerate(searches) if not search.is_done and length < max_length]
        for search in searches:
            if search.is_done or length == max_length:
                found[search.number] = search.result(width)
        searches = [searches[place] for place in going]
        if searches:
            parents_bW = torch.tensor([search.padded_parents(width) for search in searches], device=device)
            last_BW = torch.tensor([search.last_ids(width, special_ids.eos) for search in searches], device=device)
            steps.keep(torch.tensor(going, device=device), parents_bW)
    return found


@dataclass
class _Search:
    """The search for the captions of one image."""

    number: int
    active: list[Caption]
    finished: list[Caption]
    rank: Callable[[Caption, int], float]
    stops_early: bool
    is_done: bool = False
    parents: tuple[int, ...] = ()

    def scores(self, beams: int) -> list[float]:
        """Return the score of each hypothesis; minus infinity where there are fewer."""
        return [caption.score for caption in self.active] + [-torch.inf] * (beams - len(self.active))

    def extend(self, scores: list[float], indices: list[int], vocabulary: int, width: int, eos: int) -> None:
        """Replace the hypotheses by their best continuations, given as candidates in descending order."""
        extended: list[Caption] = []
        parents: list[int] = []
        for score, index in zip(scores, indices, strict=True):
            parent, token = divmod(index, vocabulary)
            if score == -torch.inf:
                continue
            if token == eos:
                self.finished.append(Caption(self.active[parent].ids, score))
            elif len(extended) < width:
                extended.append(Caption([*self.active[parent].ids, token], score))
                parents.append(parent)
        self.active, self.parents = extended, tuple(parents)
        self.finished = sorted(self.finished, key=lambda caption: -self.rank(caption, 1))[:width]
        # Without a length penalty, a longer caption is never more likely than its prefix.
        best_found = self.stops_early and len(self.finished) == width and bool(extended)
        self.is_done = not extended or (best_found and self.finished[-1].score >= extended[0].score)
        if self.is_done:
            self.active = []

    def padded_parents(self, width: int) -> list[int]:
        return [*self.parents, *[0] * (width - len(self.parents))]

    def last_ids(self, width: int, other: int) -> list[int]:
        return [*(caption.ids[-1] for caption in self.active), *[other] * (width - len(self.active))]

    def result(self, width: int) -> list[Caption]:
        """Return the best captions; at the maximum length, hypotheses without EOS are captions too."""
        return sorted([*self.finished, *self.active], key=lambda caption: -self.rank(caption, 1))[:width]
