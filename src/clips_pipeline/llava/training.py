# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Training and test of one probe.

Shapes: N images, B batch, L length, P patches, D width of the tower.
"""

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.llava.config import LlavaProbeConfig
from clips_pipeline.llava.model import build_llava, conversation, conversation_loss, generate, prompt_row
from clips_pipeline.llava.questions import Question, Vocabulary

log = logging.getLogger(__name__)
_NEW_IDS = 3
"""The longest answer has two words and an end."""
_TEST_BATCH = 512


@dataclass(frozen=True)
class ProbeData:
    """Questions about a split, with the patches of its images.

    Attributes:
        questions: the questions.
        patches_NPD: patches of all images that are asked about; None for a probe without images.
        place: for the index of a scene, its place in `patches_NPD`.
    """

    questions: Sequence[Question]
    patches_NPD: Tensor | None
    place: dict[int, int]

    @property
    def patch_count(self) -> int:
        """Number of patches of an image; 0 without images."""
        return 0 if self.patches_NPD is None else self.patches_NPD.shape[1]

    def by_image(self) -> list[list[Question]]:
        """Return the questions grouped by their image, in the order of the first one of each."""
        groups: dict[int, list[Question]] = {}
        for question in self.questions:
            groups.setdefault(question.index, []).append(question)
        return list(groups.values())

    def patches(self, chosen: Sequence[Question]) -> Tensor | None:
        """Return the patches (B, P, D) of the images of some questions in float32."""
        if self.patches_NPD is None:
            return None
        return self.patches_NPD[torch.tensor([self.place[one.index] for one in chosen])].float()


@dataclass(frozen=True)
class ProbeResult:
    """Answers and course of one probe.

    Attributes:
        answers: answers to the test questions, in their order.
        validation: accuracy on the validation questions at each evaluation.
        train_loss: mean loss before each evaluation, in nats per id.
        seconds: duration of the training.
    """

    answers: list[str]
    validation: list[float]
    train_loss: list[float]
    seconds: float


def train_probe(
    vision: Any, config: LlavaProbeConfig, data: dict[str, ProbeData], seed: int
) -> tuple[ProbeResult, Any]:
    """Train projector and language model on `train`, choose the weights on `validation`, and answer the questions of `test`.

    Args:
        vision: the vision tower, a `ViTModel`, frozen.
        config: configuration of the probe.
        data: by split.
        seed: of initial weights and of the order of the images.

    Returns:
        the result, and the LLaVA model with the best weights.
    """
    torch.manual_seed(seed)
    words, train = Vocabulary(), data["train"]
    by_image = train.by_image()
    rows = [
        conversation([(words.encode(one.text), words.encode(one.answer)) for one in asked], train.patch_count)
        for asked in by_image
    ]
    longest = max(max(row.positions) for row in rows) + 1 + _NEW_IDS
    llava = build_llava(vision, config.vision_layer, config.language, len(words), longest)
    trained = [parameter for parameter in llava.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    steps = max(1, math.ceil(config.epochs * len(rows) / config.batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, steps, config.warmup))
    order = torch.Generator().manual_seed(seed)
    evaluate_at = {math.ceil(steps * (number + 1) / config.evaluations) for number in range(config.evaluations)}
    waiting, losses = list[int](), list[float]()
    validation, train_loss = list[float](), list[float]()
    best: dict[str, Tensor] = {}
    started = time.monotonic()
    for step in range(1, steps + 1):
        while len(waiting) < config.batch_size:
            waiting += torch.randperm(len(rows), generator=order).tolist()
        chosen, waiting = waiting[: config.batch_size], waiting[config.batch_size :]
        patches_BPD = train.patches([by_image[number][0] for number in chosen])
        loss = conversation_loss(llava, [rows[number] for number in chosen], patches_BPD)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step in evaluate_at:
            validation.append(accuracy(answer(llava, data["validation"]), data["validation"].questions))
            train_loss.append(sum(losses) / len(losses))
            losses.clear()
            log.info("step %d of %d: loss %.3f, validation %.3f", step, steps, train_loss[-1], validation[-1])
            if validation[-1] >= max(validation):
                best = copy.deepcopy(llava.state_dict())
    seconds = time.monotonic() - started
    llava.load_state_dict(best)
    return ProbeResult(answer(llava, data["test"]), validation, train_loss, seconds), llava


def accuracy(answers: Sequence[str], questions: Sequence[Question]) -> float:
    """Return the fraction of answers that are exactly right."""
    return sum(one == question.answer for one, question in zip(answers, questions, strict=True)) / len(questions)


def answer(llava: Any, data: ProbeData) -> list[str]:
    """Return the answers to all questions, in their order."""
    words = Vocabulary()
    llava.eval()
    by_length: dict[int, list[int]] = {}
    # Questions of one length need no padding, which could change answers.
    for place, question in enumerate(data.questions):
        by_length.setdefault(len(words.encode(question.text)), []).append(place)
    found = [""] * len(data.questions)
    for places in by_length.values():
        for start in range(0, len(places), _TEST_BATCH):
            batch = [data.questions[place] for place in places[start : start + _TEST_BATCH]]
            ids = torch.tensor([prompt_row(words.encode(question.text), data.patch_count) for question in batch])
            answers = generate(llava, ids, data.patches(batch), _NEW_IDS)
            for place, ids_of_answer in zip(places[start:], answers, strict=False):
                found[place] = words.decode(ids_of_answer)
    llava.train()
    return found


def _factor(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate of a step relative to its peak: linear warm-up, then half a cosine to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
