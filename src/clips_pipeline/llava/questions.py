"""Questions and answers about the embedded scenes, from the scenes themselves, with balanced answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from clips_pipeline.config import ConfigError
from clips_pipeline.data.scenes.lexicon import with_article
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.scene import BACKGROUNDS, COLORS, Scene
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.source import SPLITS, ScenesConfig, scene_of
from clips_pipeline.data.scenes.synthetic_captions import NUMBERS

QuestionType = Literal["color", "kind", "count", "where", "exists", "background"]
TYPES: Final[tuple[QuestionType, ...]] = get_args(QuestionType)

PAD, BOS, EOS, IMAGE = range(4)
"""Ids before those of the words: padding, begin, end, and the place of one patch of the image."""


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Attributes:
        key: key of the sample.
        index: number of the scene in its split.
        type: what is asked.
        text: the question, words separated by spaces.
        answer: the only right answer, one or two words.
    """

    key: str
    index: int
    type: QuestionType
    text: str
    answer: str


def balanced_questions(scenes: ScenesConfig, split: str, count: int, seed: int) -> list[Question]:
    """Ask about the scenes of a split. Within a type all answers that occur are equally frequent.

    So the best constant answer is right in one of as many cases as there are answers, and a question alone says no more,
    except about places: flying things are higher up.

    Args:
        scenes: the embedded data.
        split: name of the split.
        count: questions of all types together, at most; fewer where an answer does not occur often enough.
        seed: of the choice.

    Returns:
        the questions in random order.

    Raises:
        ConfigError: the split has no scenes, or too few questions are asked for.
    """
    total = getattr(scenes, split) if split in SPLITS else 0
    if not total:
        raise ConfigError(f"prepare.source.scenes.{split}: 0 scenes, so there are no questions; set at least 1")
    candidates: dict[QuestionType, dict[str, list[Question]]] = {name: {} for name in TYPES}
    for index in range(total):
        scene = scene_of(scenes, split, index)
        draws = RandomStream("llava", seed, split, index)
        for name, text, answer in _ask(scene, draws):
            question = Question(f"{split}-{index:07d}", index, name, text, answer)
            candidates[name].setdefault(answer, []).append(question)
    draws = RandomStream("llava", seed, split, "choice")
    chosen: list[Question] = []
    for name, by_answer in candidates.items():
        each = min(count // (len(TYPES) * len(by_answer)), *(len(found) for found in by_answer.values()))
        if not each:
            raise ConfigError(
                f"llava_probe: {count} questions about '{split}' are too few for the {len(by_answer)} answers of type "
                f"'{name}'; ask at least {len(TYPES) * len(by_answer)}"
            )
        for answer in sorted(by_answer):
            chosen += draws.shuffled(by_answer[answer])[:each]
    return draws.shuffled(chosen)


def _ask(scene: Scene, draws: RandomStream) -> Iterator[tuple[QuestionType, str, str]]:
    """Yield type, question and answer of all questions about a scene."""
    main = scene.main
    yield "color", "what color is the largest thing ?", main.color
    yield "kind", "what is the largest thing ?", main.kind
    yield "count", "how many things are there ?", NUMBERS[len(scene.things)]
    yield "where", "where is the largest thing ?", f"{main.row} {main.column}"
    here = [thing.kind for thing in scene.things]
    # Both answers for each scene, so that the kind that is asked for does not tell the answer.
    yield "exists", f"is there {with_article(draws.pick(here))} ?", "yes"
    yield "exists", f"is there {with_article(draws.pick([kind for kind in KINDS if kind not in here]))} ?", "no"
    yield "background", "what is in the background ?", scene.background


def _all_words() -> list[str]:
    asked = "what color is the largest thing ? how many things are there ? where is there a an ? what is in the background ?"
    places = "top bottom left right"
    return sorted({*asked.split(), *places.split(), "yes", "no", *NUMBERS.values(), *KINDS, *COLORS, *BACKGROUNDS})


class Vocabulary:
    """The words of all questions and answers, one id each, after the special ids."""

    def __init__(self) -> None:
        self.words = _all_words()
        self._ids = {word: number for number, word in enumerate(self.words, start=IMAGE + 1)}

    def __len__(self) -> int:
        return len(self.words) + IMAGE + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words of a text."""
        return [self._ids[word] for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words before the first end; other special ids are shown as `?`."""
        words = []
        for number in ids:
            if number == EOS:
                break
            words.append(self.words[number - IMAGE - 1] if number > IMAGE else "?")
        return " ".join(words)


def chance_by_type(questions: Sequence[Question]) -> dict[str, float]:
    """Return, by type, the accuracy of the best constant answer."""
    return _by_type(questions, lambda answers: max(answers.count(one) for one in set(answers)) / len(answers))


def _by_type(questions: Sequence[Question], measure: Callable[[list[str]], float]) -> dict[str, float]:
    by_type = {name: [one.answer for one in questions if one.type == name] for name in TYPES}
    return {name: measure(answers) for name, answers in by_type.items() if answers}
