"""Zero-shot classification: the class whose averaged prompt embedding is nearest to the image.

As CLIP does it: each prompt of a class is embedded and normalised, the prompts are averaged, the mean is normalised
again. Ties are pessimistic, as in `retrieval`. Legend of suffixes: N images, C classes, E embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.retrieval import TIE_TOLERANCE, FloatArray, IntArray

TOP5_FROM_CLASSES = 6
"""With five classes or fewer, accuracy@5 is always 1 and is not reported."""

EncodeTexts = Callable[[Sequence[str]], npt.NDArray[Any]]


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


def zero_shot_ranks(image_NE: npt.NDArray[Any], class_CE: npt.NDArray[Any], label_N: npt.NDArray[Any]) -> IntArray:
    """For each image, how many wrong classes score at least as high as the right one (0: classified correctly).

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
    ahead_N: IntArray = np.count_nonzero(score_NC >= (own_N - np.float32(TIE_TOLERANCE))[:, None], axis=1).astype(
        np.int64
    )
    return ahead_N - 1


def accuracy_metrics(rank_N: IntArray, label_N: npt.NDArray[Any], classes: int) -> dict[str, float]:
    """Shares of images, and of classes, that are found; in [0, 1].

    Args:
        rank_N: of `zero_shot_ranks`.
        label_N: the right classes.
        classes: to choose from, those without an image too.

    Returns:
        `accuracy@1`; `accuracy@5` where there are more than five classes; and `mean_per_class_accuracy@1`, in which every
        class that occurs weighs the same, however many images it has.

    Raises:
        ValueError: no image, or not one label per rank.
    """
    metrics = {"accuracy@1": float(np.mean(rank_N < 1))}
    if classes >= TOP5_FROM_CLASSES:
        metrics["accuracy@5"] = float(np.mean(rank_N < 5))
    metrics["mean_per_class_accuracy@1"] = mean_per_class_accuracy(rank_N, label_N)
    return metrics


def mean_per_class_accuracy(rank_N: IntArray, label_N: npt.NDArray[Any]) -> float:
    """The share of a class's images that are classified correctly, averaged over the classes that occur.

    Raises:
        ValueError: no image, or not one label per rank.
    """
    label_N = np.asarray(label_N, dtype=np.int64)
    if len(rank_N) == 0 or label_N.shape != rank_N.shape:
        raise ValueError(f"zero-shot: one label per rank, found {label_N.shape} for {rank_N.shape}")
    images_C = np.bincount(label_N)
    right_C = np.bincount(label_N[rank_N < 1], minlength=len(images_C))
    occurs_C = images_C > 0
    return float(np.mean(right_C[occurs_C] / images_C[occurs_C]))


def chance_accuracy(classes: int) -> dict[str, float]:
    """Accuracy of a guess, under the names of `accuracy_metrics`.

    A guess finds a share of 1 / C of each class, so the mean over classes is that of all images.
    """
    chance = {"accuracy@1": 1.0 / classes}
    if classes >= TOP5_FROM_CLASSES:
        chance["accuracy@5"] = 5.0 / classes
    chance["mean_per_class_accuracy@1"] = 1.0 / classes
    return chance


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
