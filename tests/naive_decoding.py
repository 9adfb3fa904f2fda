"""Naive twin of caption decoding: one image at a time, and CoCa's captioner computes all positions at every step.

Shapes: C H W image, P image tokens, Q positions, N hypotheses, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clips_pipeline.evaluation.inference.beam_search import Caption, SpecialIds
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.rows.layout import CaptionRows

NextLogProbs = Callable[[Sequence[list[int]]], Tensor]
"""Maps N hypotheses of equal length to the log-probabilities (N, V) of their next ids."""


def beam_search(
    next_log_probs: NextLogProbs,
    max_length: int,
    special_ids: SpecialIds,
    *,
    width: int = 4,
    length_penalty: float = 0.0,
    repeat: bool = False,
) -> list[Caption]:
    """Return the best captions found by beam search, best first.

    Args:
        next_log_probs: log-probabilities of the next ids.
        max_length: maximum number of ids of a caption, including EOS.
        special_ids: special ids; `forbidden` ones are never written.
        width: beam width.
        length_penalty: captions are ranked by score / length ** length_penalty; 0 ranks by probability.
        repeat: whether an id may occur twice in a row.

    Raises:
        ValueError: `width` or `max_length` is below 1.
    """
    if width < 1 or max_length < 1:
        raise ValueError(f"width is {width} and max_length {max_length}; both must be at least 1")
    active: list[Caption] = [Caption([], 0.0)]
    finished: list[Caption] = []

    def rank(caption: Caption, eos: int = 0) -> float:
        return caption.score / float(max(1, len(caption.ids) + eos) ** length_penalty)

    for _ in range(max_length):
        log_p_NV = special_ids.mask(next_log_probs([caption.ids for caption in active]))
        if not repeat:
            for row_V, caption in zip(log_p_NV, active, strict=True):
                if caption.ids:
                    row_V[caption.ids[-1]] = -torch.inf
        scores_NV = log_p_NV + torch.tensor([[caption.score] for caption in active], device=log_p_NV.device)
        # At most one continuation of a hypothesis is EOS, so of 2 x width candidates at least `width` continue.
        best = scores_NV.flatten().topk(min(2 * width, scores_NV.numel()))
        vocabulary = log_p_NV.shape[1]
        extended: list[Caption] = []
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            parent, token = divmod(index, vocabulary)
            if score == -torch.inf:
                continue
            if token == special_ids.eos:
                finished.append(Caption(active[parent].ids, score))
            elif len(extended) < width:
                extended.append(Caption([*active[parent].ids, token], score))
        active = extended
        finished = sorted(finished, key=lambda caption: -rank(caption, 1))[:width]
        # Without a length penalty, a longer caption is never more likely than its prefix.
        done = length_penalty == 0.0 and len(finished) == width and active and finished[-1].score >= active[0].score
        if not active or done:
            break
    else:
        finished += active
    return sorted(finished, key=lambda caption: -rank(caption, 1))[:width]


def next_from_positions(log_p_QV: Tensor) -> NextLogProbs:
    """Return `next_log_probs` for one image whose positions have been predicted in parallel."""
    return lambda hypotheses: log_p_QV[len(hypotheses[0])].expand(len(hypotheses), -1)


@torch.no_grad()
def next_from_prefix(model: ClipsModel, image_CHW: Tensor, bos: int) -> NextLogProbs:
    """Return `next_log_probs` for one image and an autoregressive captioner (method coca).

    Raises:
        ValueError: the model has no such captioner.
    """
    captioner = model.captioner
    if captioner is None or captioner.token_embedding is None:
        raise ValueError("only a captioner of method coca is autoregressive; use `next_from_positions`")
    image_1PD = model.vision(image_CHW[None]).tokens_BPD

    @torch.no_grad()
    def next_log_probs(hypotheses: Sequence[list[int]]) -> Tensor:
        prefix_NQ = torch.tensor([[bos, *ids] for ids in hypotheses], device=image_1PD.device)
        every = CaptionRows.all(*prefix_NQ.shape, prefix_NQ.device)
        image_NPD = image_1PD.expand(len(hypotheses), -1, -1)
        hidden_NQD = captioner(image_NPD, None, every, previous_ids_BQ=prefix_NQ).unflatten(0, prefix_NQ.shape)
        log_p_NV: Tensor = captioner.head(hidden_NQD[:, -1]).float().log_softmax(dim=-1)
        return log_p_NV

    return next_log_probs
