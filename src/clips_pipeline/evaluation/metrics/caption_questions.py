"""Compositional questions of the images of a set: which of two captions is true of an image?

As in SugarCrepe, a hit is a higher similarity of the true caption, and a tie is not a hit. The images are those of the set, so only
the captions are embedded.

Shapes: N images, Q questions, E embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.caption_questions import CaptionQuestion
from clips_pipeline.evaluation.metrics.compositionality import Flags, sugarcrepe_hits
from clips_pipeline.evaluation.metrics.retrieval import EncodeTexts, FloatArray, IntArray
from clips_pipeline.evaluation.results import QUESTION_COLUMN, ItemRow

MAX_SUBSETS = 40
CHANCE = 0.5


@dataclass(frozen=True)
class Answers:
    """Answers of a model to the questions of a set.

    Attributes:
        questions: all questions.
        owners: (Q,) number of the image of each.
        right: (Q,) whether the model prefers the true caption.
    """

    questions: tuple[CaptionQuestion, ...]
    owners: IntArray
    right: Flags

    @property
    def subsets(self) -> list[str]:
        """Names of the subsets that have questions, sorted."""
        return sorted({question.subset for question in self.questions})

    def chance(self, set_name: str) -> dict[str, float]:
        """Return the chance levels by metric key; empty without questions."""
        names = [*self.subsets, "mean"] if self.questions else []
        return {f"compositionality/{set_name}/{name}_accuracy": CHANCE for name in names}

    def add_to(self, rows: Sequence[ItemRow]) -> None:
        """Add to the row of each image a list per subset: 1 for each right answer, 0 for each wrong one."""
        for row in rows:
            row |= {f"{QUESTION_COLUMN}{subset}": [] for subset in self.subsets}
        for question, owner, right in zip(self.questions, self.owners.tolist(), self.right.tolist(), strict=True):
            rows[owner][f"{QUESTION_COLUMN}{question.subset}"].append(int(right))


def answer_questions(
    encode_texts: EncodeTexts, image_NE: FloatArray, questions: Sequence[CaptionQuestion], owners: Sequence[int]
) -> Answers:
    """Answer the questions of a set by similarity.

    Args:
        encode_texts: embeds texts.
        image_NE: image embeddings.
        questions: the questions; may be none.
        owners: number of the image of each.

    Raises:
        ConfigError: too many subsets, each of which is a metric.
    """
    subsets = {question.subset for question in questions}
    if len(subsets) > MAX_SUBSETS:
        raise ConfigError(
            f"evaluate: the samples have questions of {len(subsets)} subsets, such as {', '.join(sorted(subsets)[:3])}; at most "
            f"{MAX_SUBSETS} are evaluated; join subsets, or remove `questions` from the samples"
        )
    owner_Q = np.array(owners, np.int64)
    if not questions:
        return Answers((), owner_Q, np.zeros(0, np.bool_))
    # Many questions share captions, such as those about numbers.
    place = {text: i for i, text in enumerate(dict.fromkeys(text for _, *pair in questions for text in pair))}
    text_E = encode_texts(list(place))
    right_QE, wrong_QE = (
        text_E[[place[text] for text in texts]]
        for texts in ([question.caption for question in questions], [question.negative for question in questions])
    )
    return Answers(tuple(questions), owner_Q, sugarcrepe_hits(image_NE[owner_Q], right_QE, wrong_QE))
