"""Caption decoding: parallel, or by beam search. CLIPS paper, section 3; docs/how-to/train.md.

The CLIPS captioner predicts every position from image, web caption and learned queries, and reads no caption tokens. Its
distribution over captions is therefore a product over positions: the most likely token of each position gives the most likely
caption. Beam search finds the most likely captions under a constraint that couples positions (no token twice in a row, an
error to which independent positions are prone). CoCa's captioner is autoregressive: it uses the same beam search, computes one
position at a time, and keeps keys and values of earlier ones.

Shapes: B batch, C H W image, L context, T target length, Q queries (positions), N hypotheses or valid targets, D width,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clips_pipeline.evaluation.inference.beam_search import (
    Caption,
    PositionSteps,
    SpecialIds,
    Steps,
    beam_search,
)
from clips_pipeline.models.cached_decoding import CachedCaptioner
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

_IMAGES_PER_CHUNK = 8
_CHUNK_TOKENS = 1024

Decoding = Literal["beam", "parallel"]

# Rank by the mean log-probability: by the sum, which decreases with every token, an empty caption often ranks first.
LENGTH_PENALTY = 1.0


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
    log_p_BQV = special_ids.mask(log_p_BQV)
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

    Raises:
        ValueError: the model has no captioner that predicts all positions at once.
    """
    if model.captioner is None:
        raise ValueError("the model has no captioner")
    special_ids = SpecialIds.of(tokenizer, model.captioner.config.vocab_size)
    found = []
    for images_bCHW, web_ids_bL in zip(
        torch.split(images_BCHW, _IMAGES_PER_CHUNK), torch.split(web_ids_BL, _IMAGES_PER_CHUNK), strict=True
    ):
        found += decode_parallel(log_probabilities(model, images_bCHW, web_ids_bL), special_ids)
    return [tokenizer.decode(caption.ids) for caption in found]


@dataclass(frozen=True)
class ParallelCaption:
    """A caption by parallel decoding: its text, and its words, each with its probability (0 to 1, the product of its pieces')."""

    text: str
    words: tuple[tuple[str, float], ...]


@torch.no_grad()
def parallel_caption(model: ClipsModel, image_CHW: Tensor, web_ids_L: Tensor, tokenizer: Tokenizer) -> ParallelCaption:
    """Return the most likely caption of an image.

    Args:
        model: as in `log_probabilities`.
        image_CHW: transformed image on the model's device.
        web_ids_L: encoder row of the web caption.
        tokenizer: tokenizer of the model.

    Raises:
        ValueError: the model has no captioner that predicts all positions at once.
    """
    if model.captioner is None:
        raise ValueError("the model has no captioner")
    log_p_1QV = log_probabilities(model, image_CHW[None], web_ids_L[None])
    (caption,) = decode_parallel(log_p_1QV, SpecialIds.of(tokenizer, model.captioner.config.vocab_size))
    words: list[str] = []
    probabilities: list[float] = []
    for count, piece in enumerate(caption.ids, start=1):
        # Whether a piece begins a word depends on the tokenizer: decode all pieces up to this one.
        words = tokenizer.decode(caption.ids[:count]).split()
        probabilities += [1.0] * (len(words) - len(probabilities))
        if probabilities:
            probabilities[-1] *= float(log_p_1QV[0, count - 1, piece].exp())
    return ParallelCaption(tokenizer.decode(caption.ids), tuple(zip(words, probabilities, strict=True)))


def decode_captions_beam(
    model: ClipsModel, images_BCHW: Tensor, web_ids_BL: Tensor, tokenizer: Tokenizer, *, width: int = 4
) -> list[str]:
    """Return the best caption of each image by beam search as text; the images are searched together.

    Args:
        model: model with a captioner, in evaluation mode.
        images_BCHW: as `encode_image` takes them.
        web_ids_BL: encoder rows of the web captions; not read by a captioner of method coca.
        tokenizer: tokenizer of the model.
        width: beam width.

    Raises:
        ValueError: the model has no captioner, or `width` is below 1.
    """
    captioner = model.captioner
    if captioner is None:
        raise ValueError("the model has no captioner")
    special_ids = SpecialIds.of(tokenizer, captioner.config.vocab_size)
    found = []
    for images_bCHW, web_ids_bL in zip(
        torch.split(images_BCHW, _IMAGES_PER_CHUNK), torch.split(web_ids_BL, _IMAGES_PER_CHUNK), strict=True
    ):
        if captioner.token_embedding is None:
            log_p_bQV = log_probabilities(model, images_bCHW, web_ids_bL)
            steps: Steps = PositionSteps(log_p_bQV)
        else:
            with torch.no_grad():
                steps = CachedCaptioner(captioner, model.vision(images_bCHW).tokens_BPD)
        # The last query never has a target.
        captions = beam_search(
            steps,
            len(images_bCHW),
            captioner.config.queries - 1,
            special_ids,
            width=width,
            length_penalty=LENGTH_PENALTY,
            device=images_bCHW.device,
        )
        found += [tokenizer.decode(best[0].ids) if best else "" for best in captions]
    return found


def write_captions(
    model: ClipsModel,
    images_BCHW: Tensor,
    web_captions: Sequence[str],
    tokenizer: Tokenizer,
    *,
    decoding: Decoding = "beam",
    width: int = 4,
) -> list[str]:
    """Write one caption for each image.

    Args:
        model: model with a captioner, in evaluation mode.
        images_BCHW: transformed images on the model's device.
        web_captions: text of each image that a captioner of method clips reads together with it.
        tokenizer: tokenizer of the model.
        decoding: beam search, or `parallel`, the most likely word of each position (method clips only).
        width: beam width.

    Raises:
        ValueError: the model has no captioner, or none that predicts all positions at once for `parallel`.
    """
    length = model.config.text.context_length
    rows = [tokenizer.encode(text, length) for text in web_captions]
    web_ids_BL = torch.tensor(rows, device=images_BCHW.device).reshape(len(rows), length)
    if decoding == "parallel":
        return decode_captions_parallel(model, images_BCHW, web_ids_BL, tokenizer)
    return decode_captions_beam(model, images_BCHW, web_ids_BL, tokenizer, width=width)
