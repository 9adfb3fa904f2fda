"""Caption decoding: parallel, or by beam search. CLIPS paper, section 3; docs/training.md.

The CLIPS captioner predicts every position from image, web caption and learned queries, and reads no caption tokens. Its
distribution over captions is therefore a product over positions: the most likely token of each position gives the most likely
caption. Beam search finds the most likely captions under a constraint that couples positions (no token twice in a row, an
error to which independent positions are prone). CoCa's captioner is autoregressive: it uses the same beam search with one
forward pass per position.

Shapes: B batch, C H W image, L context, T target length, Q queries (positions), N hypotheses or valid targets, D width,
V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

_IMAGES_PER_CHUNK = 8
_CHUNK_TOKENS = 1024

NextLogProbs = Callable[[Sequence[list[int]]], Tensor]
"""Maps N hypotheses of equal length to the log-probabilities (N, V) of their next ids."""


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


@dataclass(frozen=True)
class Caption:
    """Ids without BOS and EOS, and the sum of their log-probabilities, including EOS if it was written."""

    ids: list[int]
    score: float


@torch.no_grad()
def log_probabilities(model: ClipsModel, images_BCHW: Tensor, web_ids_BL: Tensor) -> Tensor:
    """Compute log-probabilities (B, Q, V) of all positions that have a target in training, in one forward pass.

    Args:
        model: model with queries (method clips), in evaluation mode.
        images_BCHW: as `encode_image` takes them.
        web_ids_BL: encoder rows of the web captions, or of an empty text.

    Raises:
        ValueError: the model has no such captioner.
    """
    # The last query never has a target: a row of T ids has T - 1 ids to predict.
    return model.caption_logits(images_BCHW, web_ids_BL)[:, :-1].float().log_softmax(dim=-1)


@torch.no_grad()
def caption_nats(
    model: ClipsModel, images_BCHW: Tensor, web_ids_BL: Tensor, target_ids_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of each synthetic caption.

    The metric is the mean over all valid target tokens of a split, so long captions have a larger weight than short ones. Its
    exponential is the perplexity.

    Args:
        model: model in evaluation mode.
        images_BCHW: as `encode_image` takes them.
        web_ids_BL: encoder rows of the web captions.
        target_ids_BT: target rows of the synthetic captions.

    Returns:
        (B,) sums in nats, float64, and (B,) numbers of valid target tokens (EOS counts, BOS and PAD do not).

    Raises:
        ValueError: the model has no captioner.
    """
    if model.captioner is None:
        raise ValueError("the model has no captioner, so there is no caption loss")
    # The fragment only affects the contrastive term, which is not used here, so its row is empty.
    output = model(images_BCHW, web_ids_BL, web_ids_BL[:, :0], target_ids_BT)
    tokens_B = (target_ids_BT[:, 1:] != model.config.text.pad_id).sum(dim=1)
    weight_VD = model.captioner.head.weight
    row_N = torch.repeat_interleave(torch.arange(len(tokens_B), device=tokens_B.device), tokens_B)
    nats_B = torch.zeros(len(tokens_B), dtype=torch.float64, device=tokens_B.device)
    for low in range(0, len(row_N), _CHUNK_TOKENS):
        chunk = slice(low, low + _CHUNK_TOKENS)
        logits_NV = (output.caption_hidden_ND[chunk] @ weight_VD.T).float()
        nats_N = torch.nn.functional.cross_entropy(logits_NV, output.caption_targets_N[chunk], reduction="none")
        nats_B.index_add_(0, row_N[chunk], nats_N.double())
    return nats_B, tokens_B


def decode_parallel(log_p_BQV: Tensor, special_ids: SpecialIds) -> list[Caption]:
    """Return the most likely caption of each image: the most likely id of every position, up to the first EOS."""
    log_p_BQV = _mask_forbidden(log_p_BQV, special_ids)
    best_BQ = log_p_BQV.max(dim=-1)
    found = []
    for ids_Q, scores_Q in zip(best_BQ.indices.tolist(), best_BQ.values, strict=True):
        end = ids_Q.index(special_ids.eos) if special_ids.eos in ids_Q else len(ids_Q)
        found.append(Caption(ids_Q[:end], float(scores_Q[: end + 1].sum())))
    return found


def decode_captions_parallel(
    model: ClipsModel, images_BCHW: Tensor, web_ids_BL: Tensor, tokenizer: Tokenizer
) -> list[str]:
    """Return the most likely caption of each image as text. Logits are held for a few images at a time.

    Args:
        model: as in `log_probabilities`.
        images_BCHW: as in `log_probabilities`.
        web_ids_BL: as in `log_probabilities`.
        tokenizer: tokenizer of the model.
    """
    assert model.captioner is not None  # noqa: S101  (`log_probabilities` raises otherwise)
    special_ids = SpecialIds.of(tokenizer, model.captioner.config.vocab_size)
    found = []
    for images_bCHW, web_ids_bL in zip(
        torch.split(images_BCHW, _IMAGES_PER_CHUNK), torch.split(web_ids_BL, _IMAGES_PER_CHUNK), strict=True
    ):
        found += decode_parallel(log_probabilities(model, images_bCHW, web_ids_bL), special_ids)
    return [tokenizer.decode(caption.ids) for caption in found]


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
        log_p_NV = _mask_forbidden(next_log_probs([caption.ids for caption in active]), special_ids).clone()
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
        last_NQ = torch.zeros_like(prefix_NQ, dtype=torch.bool)
        last_NQ[:, -1] = True
        image_NPD = image_1PD.expand(len(hypotheses), -1, -1)
        hidden_ND = captioner(image_NPD, None, last_NQ, previous_ids_BQ=prefix_NQ)
        log_p_NV: Tensor = captioner.head(hidden_ND).float().log_softmax(dim=-1)
        return log_p_NV

    return next_log_probs


def _mask_forbidden(log_p: Tensor, special_ids: SpecialIds) -> Tensor:
    forbidden = torch.zeros(log_p.shape[-1], dtype=torch.bool, device=log_p.device)
    forbidden[[special_ids.bos, *special_ids.forbidden]] = True
    return log_p.masked_fill(forbidden, -torch.inf)
