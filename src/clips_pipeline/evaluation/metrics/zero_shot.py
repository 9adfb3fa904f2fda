"""Zero-shot classification: accuracy and confusion counts.

As in CLIP, the prompts of a class are embedded, normalized and averaged, and the mean is normalized again; an image belongs to
the class with the most similar embedding. Ties are pessimistic, as in `retrieval`.
Shapes: N images, C classes, E embedding width.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError, FormerName
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.evaluation.metrics.retrieval import TIE_TOLERANCE, EncodeTexts, FloatArray, IntArray

TOP5_FROM_CLASSES = 6
"""Minimum number of classes for accuracy@5, which is always 1 with five classes or fewer."""

MOST_CLASSES = 16
MOST_PAIRS = 12


@dataclass(frozen=True)
class Mistake:
    """Number of `images`, of `label_images` of the class `label`, that are classified as `prediction`."""

    label: Annotated[str, FormerName("of")]
    prediction: Annotated[str, FormerName("taken_for")]
    images: int
    label_images: Annotated[int, FormerName("of_images")]


@dataclass(frozen=True)
class Confusion:
    """Counts of images by class and predicted class.

    Attributes:
        classes: number of all classes, with images or without.
        names: names of the classes with most images, in class order.
        counts: one row per name, one column per name, and a last column for all other classes.
        mistakes: the most frequent confusions among all classes, most frequent first.
    """

    classes: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]


def imagenet_classes() -> Classes:
    """Return ImageNet's 1,000 names, in the order of the ILSVRC 2012 labels, and CLIP's 80 templates.

    Raises:
        ConfigError: the package open_clip is not installed.
    """
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise ConfigError(
            f"evaluate.class_names: imagenet needs the package open_clip ({error}); run pip install 'clips-pipeline[open-clip]'"
        ) from None
    # Each template is a function of the name.
    return Classes(tuple(IMAGENET_CLASSNAMES), tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES))


def class_embeddings(encode_texts: EncodeTexts, classes: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """Embed each class as the mean of its prompts.

    Args:
        encode_texts: maps texts to (len, E) embeddings of any norm; they are normalized here.
        classes: class names.
        templates: prompts with one `{}` or `{c}` in place of the name.

    Returns:
        (C, E) embeddings with unit norm.

    Raises:
        ConfigError: there are no classes or templates, a template has no placeholder, or the prompts of a class cancel out.
    """
    if not classes or not templates:
        raise ConfigError(
            f"zero-shot: needs classes and templates, found {len(classes)} and {len(templates)}; see classes.json"
        )
    prompts = [_fill_template(template, name) for name in classes for template in templates]
    prompt_CTE = np.asarray(encode_texts(prompts), dtype=np.float32).reshape(len(classes), len(templates), -1)
    return _normalize(_normalize(prompt_CTE, classes).mean(axis=1), classes)


def classify(
    image_NE: npt.NDArray[Any], class_CE: npt.NDArray[Any], label_N: npt.NDArray[Any]
) -> tuple[IntArray, IntArray]:
    """Classify images.

    Returns:
        (N,) ranks: the number of wrong classes that score at least as high as the right one (0: classified correctly), and
        (N,) predictions: the right class if the rank is 0, else the best other class.

    Raises:
        ValueError: there are no images, or a label is not a row of `class_CE`.
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
    """Return chance level by metric name.

    A random guess is right for 1 / C of the images of each class, so the mean over classes equals that over images.
    """
    chance = {"accuracy@1": 1.0 / classes}
    if classes >= TOP5_FROM_CLASSES:
        chance["accuracy@5"] = 5.0 / classes
    chance["mean_per_class_accuracy@1"] = 1.0 / classes
    return chance


def confusion(label_N: npt.NDArray[Any], predicted_N: npt.NDArray[Any], names: Sequence[str]) -> Confusion:
    """Count images by class and predicted class.

    Args:
        label_N: right classes.
        predicted_N: predicted classes.
        names: names of all classes.
    """
    images = Counter(label_N.tolist())
    # Of classes with equally many images, show the first ones.
    shown = sorted(sorted(images, key=lambda label: (-images[label], label))[:MOST_CLASSES])
    pairs = Counter(zip(label_N.tolist(), predicted_N.tolist(), strict=True))
    rows = []
    for label in shown:
        row = [pairs[label, other] for other in shown]
        rows.append((*row, images[label] - sum(row)))
    wrong = sorted(((pair, count) for pair, count in pairs.items() if pair[0] != pair[1]), key=lambda e: (-e[1], *e[0]))
    mistakes = tuple(Mistake(names[a], names[b], count, images[a]) for (a, b), count in wrong[:MOST_PAIRS])
    return Confusion(len(names), tuple(names[label] for label in shown), tuple(rows), mistakes)


def _fill_template(template: str, name: str) -> str:
    for place in ("{}", "{c}"):
        if template.count(place) == 1:
            return template.replace(place, name)
    raise ConfigError(f"zero-shot template {template!r}: write {{}} exactly once, in place of the class name")


def _normalize(embedding_XE: FloatArray, classes: Sequence[str]) -> FloatArray:
    length_X1 = np.linalg.norm(embedding_XE, axis=-1, keepdims=True)
    # Negated, so that NaN is found too.
    bad = ~(length_X1 > 1e-6)
    if bad.any():
        name = classes[int(np.argwhere(bad)[0][0])]
        raise ConfigError(f"zero-shot: the prompt embeddings of class {name!r} are zero, cancel out or are NaN")
    result: FloatArray = embedding_XE / length_X1
    return result
