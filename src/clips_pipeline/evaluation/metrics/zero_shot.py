"""Zero-shot classification: the class whose averaged prompt embedding is nearest to the image, and what is taken for it.

As CLIP does it: each prompt of a class is embedded and normalised, the prompts are averaged, the mean is normalised
again. Ties are pessimistic, as in `retrieval`. Legend of suffixes: N images, C classes, E embedding width.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.evaluation.metrics.retrieval import TIE_TOLERANCE, EncodeTexts, FloatArray, IntArray

TOP5_FROM_CLASSES = 6
"""With five classes or fewer, accuracy@5 is always 1 and is not reported."""

MOST_CLASSES = 16
MOST_PAIRS = 12


@dataclass(frozen=True)
class Mistake:
    """Images of one class taken for another: how many, of how many."""

    of: str
    taken_for: str
    images: int
    of_images: int


@dataclass(frozen=True)
class Confusion:
    """Counts of images by class and by the class they are taken for.

    Attributes:
        classes: that there are in all, with images or without.
        names: of the classes with most images, in their order.
        counts: a row for each of `names`, a column for each of them, and a last one for all others.
        mistakes: the most frequent ones among all classes, most frequent first.
    """

    classes: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]


def imagenet_classes() -> Classes:
    """ImageNet's 1,000 names, in the order of the labels of ILSVRC 2012, and CLIP's 80 templates.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise ConfigError(
            f"evaluate.class_names: imagenet needs the package of open_clip ({error}); pip install 'clips-pipeline[open-clip]'"
        ) from None
    # Each template is a function of the name.
    return Classes(tuple(IMAGENET_CLASSNAMES), tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))


def class_embeddings(encode_texts: EncodeTexts, classes: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """Embed each class as the mean of its prompts.

    Args:
        encode_texts: texts to (len, E) embeddings of any length; they are normalised here.
        classes: class names.
        templates: prompts with one `{}` or `{c}` where the name goes.

    Returns:
        (C, E) embeddings of length one.

    Raises:
        ConfigError: no class, no template, a template without its place, or prompts of a class that cancel out.
    """
    if not classes or not templates:
        raise ConfigError(f"zero-shot: needs classes and templates, found {len(classes)} and {len(templates)}")
    prompts = [_fill(template, name) for name in classes for template in templates]
    prompt_CTE = np.asarray(encode_texts(prompts), dtype=np.float32).reshape(len(classes), len(templates), -1)
    return _normalised(_normalised(prompt_CTE, classes).mean(axis=1), classes)


def classify(
    image_NE: npt.NDArray[Any], class_CE: npt.NDArray[Any], label_N: npt.NDArray[Any]
) -> tuple[IntArray, IntArray]:
    """Which class each image is taken for.

    Returns:
        (N,) how many wrong classes score at least as high as the right one (0: classified correctly), and (N,) the right class
        where that is 0, else the best of the others.

    Raises:
        ValueError: no image, or a label that is not a row of `class_CE`.
    """
    label_N = np.asarray(label_N, dtype=np.int64)
    if len(image_NE) == 0 or label_N.shape != (len(image_NE),):
        raise ValueError(f"zero-shot: one label per image, found {label_N.shape} for {len(image_NE)} images")
    if label_N.min() < 0 or label_N.max() >= len(class_CE):
        raise ValueError(f"zero-shot: labels {label_N.min()} to {label_N.max()} for {len(class_CE)} classes")
    score_NC = np.asarray(image_NE, dtype=np.float32) @ np.asarray(class_CE, dtype=np.float32).T
    own_N = score_NC[np.arange(len(label_N)), label_N]
    rank_N = np.count_nonzero(score_NC >= (own_N - np.float32(TIE_TOLERANCE))[:, None], axis=1) - 1
    score_NC[np.arange(len(label_N)), label_N] = -np.inf
    return rank_N.astype(np.int64), np.where(rank_N == 0, label_N, score_NC.argmax(axis=1)).astype(np.int64)


def chance_accuracy(classes: int) -> dict[str, float]:
    """Accuracy of a guess, by name of the metric.

    A guess finds a share of 1 / C of each class, so the mean over classes is that of all images.
    """
    chance = {"accuracy@1": 1.0 / classes}
    if classes >= TOP5_FROM_CLASSES:
        chance["accuracy@5"] = 5.0 / classes
    chance["mean_per_class_accuracy@1"] = 1.0 / classes
    return chance


def confusion(label_N: npt.NDArray[Any], found_N: npt.NDArray[Any], names: Sequence[str]) -> Confusion:
    """Count.

    Args:
        label_N: right classes.
        found_N: what they are taken for.
        names: of all classes.
    """
    images = Counter(label_N.tolist())
    # Of classes with equally many images the first ones are shown.
    shown = sorted(sorted(images, key=lambda label: (-images[label], label))[:MOST_CLASSES])
    pairs = Counter(zip(label_N.tolist(), found_N.tolist(), strict=True))
    rows = []
    for label in shown:
        row = [pairs[label, other] for other in shown]
        rows.append((*row, images[label] - sum(row)))
    wrong = sorted(((pair, count) for pair, count in pairs.items() if pair[0] != pair[1]), key=lambda e: (-e[1], *e[0]))
    mistakes = tuple(Mistake(names[a], names[b], count, images[a]) for (a, b), count in wrong[:MOST_PAIRS])
    return Confusion(len(names), tuple(names[label] for label in shown), tuple(rows), mistakes)


def _fill(template: str, name: str) -> str:
    for place in ("{}", "{c}"):
        if template.count(place) == 1:
            return template.replace(place, name)
    raise ConfigError(f"zero-shot template {template!r}: write {{}} once, where the class name goes")


def _normalised(embedding_XE: FloatArray, classes: Sequence[str]) -> FloatArray:
    length_X1 = np.linalg.norm(embedding_XE, axis=-1, keepdims=True)
    # `not >` rather than `<`: NaN must be caught too.
    bad = ~(length_X1 > 1e-6)
    if bad.any():
        name = classes[int(np.argwhere(bad)[0][0])]
        raise ConfigError(f"zero-shot: the prompt embeddings of class {name!r} are zero, cancel out or are NaN")
    result: FloatArray = embedding_XE / length_X1
    return result
