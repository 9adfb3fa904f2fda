"""LLaVA in miniature: Transformers' own model with a frozen tower, LLaVA-1.5's projector and a small Llama.

Since the tower is frozen, its patches are computed once, and enter behind it. `tests/unit/llava` compares that with the
whole model on pixels.

Shapes: B batch, L length, P patches, D width of the tower, W width of the language model.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clips_pipeline.llava.config import LanguageConfig
from clips_pipeline.llava.questions import BOS, EOS, IMAGE, PAD

IGNORED = -100
"""Label of ids without a loss, as in Transformers."""


def build_llava(vision: Any, layer: int, language: LanguageConfig, vocabulary: int, length: int) -> Any:
    """Return a `LlavaForConditionalGeneration` with new projector and language model, initialized from torch's generator.

    Args:
        vision: the vision tower, a `ViTModel`; it gets no gradients.
        layer: as `llava_probe.vision_layer`.
        language: dimensions of the language model.
        vocabulary: number of ids.
        length: longest sequence in ids.
    """
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=language.width,
        intermediate_size=4 * language.width,
        num_hidden_layers=language.depth,
        num_attention_heads=language.heads,
        max_position_embeddings=length,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=text,
        image_token_index=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_layer=layer,
        vision_feature_select_strategy="default",
    )
    llava = LlavaForConditionalGeneration(config)
    # Strict but for the pooler: LLaVA's tower has one, which it does not use.
    llava.model.vision_tower.load_state_dict(vision.state_dict(), strict=False)
    llava.model.vision_tower.requires_grad_(False)
    return llava


def input_embeddings(llava: Any, ids_BL: Tensor, patches_BPD: Tensor | None) -> Tensor:
    """Return embeddings (B, L, W) of the ids, with the projected patches at the places of `IMAGE`.

    Args:
        llava: the model.
        ids_BL: rows of ids, each with P places of the image.
        patches_BPD: patches of the images; None for rows without an image.
    """
    embedded_BLW: Tensor = llava.get_input_embeddings()(ids_BL)
    if patches_BPD is None:
        return embedded_BLW
    projected_BPW = llava.model.multi_modal_projector(patches_BPD)
    return embedded_BLW.masked_scatter((ids_BL == IMAGE)[..., None], projected_BPW)


class Conversation(NamedTuple):
    """One image with several questions and answers, as one sequence.

    Attributes:
        ids: ids of begin, image, and each question with its answer and end.
        labels: ids of answers and ends; `IGNORED` elsewhere.
        positions: position of each id, counted as if its question were the only one.
        turn: number of its question, from 1; 0 for begin and image.
    """

    ids: list[int]
    labels: list[int]
    positions: list[int]
    turn: list[int]


def conversation(turns: Sequence[tuple[list[int], list[int]]], patches: int) -> Conversation:
    """Return one image with several questions, so that the image is computed once for all of them.

    Args:
        turns: ids of each question and of its answer.
        patches: number of patches of the image.
    """
    start = prompt_row([], patches)
    found = Conversation([*start], [IGNORED] * len(start), list(range(len(start))), [0] * len(start))
    for number, (asked, answered) in enumerate(turns, start=1):
        ids = [*asked, *answered, EOS]
        found.ids.extend(ids)
        found.labels.extend([IGNORED] * len(asked) + [*answered, EOS])
        found.positions.extend(range(len(start), len(start) + len(ids)))
        found.turn.extend([number] * len(ids))
    return found


def conversation_loss(llava: Any, conversations: Sequence[Conversation], patches_BPD: Tensor | None) -> Tensor:
    """Return the mean loss per id of answers and ends. No question sees another one of its image.

    So training and test are alike, where each question is asked alone.
    """
    length = max(len(one.ids) for one in conversations)

    def padded(rows: Iterable[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    ids_BL = padded((one.ids for one in conversations), PAD)
    # Padding is a question of its own: a row of the mask must not be empty.
    turn_BL = padded((one.turn for one in conversations), max(one.turn[-1] for one in conversations) + 1)
    sees_BLL = (turn_BL[:, None, :] == 0) | (turn_BL[:, None, :] == turn_BL[:, :, None])
    mask_B1LL = (sees_BLL & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    embedded_BLW = input_embeddings(llava, ids_BL, patches_BPD)
    loss: Tensor = llava(
        inputs_embeds=embedded_BLW,
        attention_mask=torch.zeros_like(mask_B1LL, dtype=embedded_BLW.dtype).masked_fill(~mask_B1LL, -torch.inf),
        position_ids=padded((one.positions for one in conversations), 0),
        labels=padded((one.labels for one in conversations), IGNORED),
    ).loss
    return loss


def prompt_row(question: list[int], patches: int) -> list[int]:
    """Return the ids before the answer: begin, the places of the image, the question."""
    return [BOS, *[IMAGE] * patches, *question]


@torch.inference_mode()
def generate(llava: Any, ids_BL: Tensor, patches_BPD: Tensor | None, new_ids: int) -> list[list[int]]:
    """Return the answers, as ids, to questions of one length, by greedy decoding."""
    embedded = input_embeddings(llava, ids_BL, patches_BPD)
    answered = llava.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
        max_new_tokens=new_ids,
        do_sample=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    found: list[list[int]] = answered.tolist()
    return found
