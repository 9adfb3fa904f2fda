# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""What frozen image features hold: a linear classifier and the nearest neighbours, on a set's own labels.

Linear probe: multinomial logistic regression by L-BFGS on the training split's features, as CLIP does it (Radford et al. 2021,
appendix A.3): the weight of the L2 penalty is the one of a logarithmic row that does best on the validation split. Neighbours:
the votes of the nearest training images, weighted by exp(cosine / 0.07) (Wu et al. 2018).

Legend of suffixes: N training images, M asked images, C classes, E embedding width, R rows of a chunk, K neighbours.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.shards.index import load_classes, load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, open_image
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, Array, EmbeddingCache
from clips_pipeline.evaluation.metrics.retrieval import FloatArray, IntArray

PENALTIES = tuple(10.0**power for power in range(-6, 3))
NEIGHBORS = 20
_TEMPERATURE = 0.07
_ROWS = 1024
_STEPS = 200
_REMEDY = "prepare a set with classes and the splits train and validation, or set it to 0"

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabeledFeatures:
    """Features and labels of one split.

    Attributes:
        features_NE: one row an image.
        labels_N: its class.
    """

    features_NE: FloatArray
    labels_N: IntArray

    def __post_init__(self) -> None:
        if len(self.features_NE) != len(self.labels_N):
            raise ValueError(f"{len(self.features_NE)} features for {len(self.labels_N)} labels")


def probe(
    embedder: TowerEmbedder,
    shards: Path,
    split: str,
    samples: int,
    remote: ShardCache | None = None,
    kept: EmbeddingCache = NO_CACHE,
) -> tuple[Flags, Flags]:
    """Ask a split for its labels, learned from the first labelled images of the training split.

    Args:
        embedder: the model.
        shards: with the splits `train`, `validation` and `split`.
        split: which is asked.
        samples: training images at most.
        remote: where shards that are not on this machine are copied to.
        kept: features of this model, from before and from now on.

    Returns:
        (M,) and (M,): whether the linear classifier is right about each labelled image of the split, in its order, and whether
        the nearest neighbours are.

    Raises:
        ConfigError: a split without labelled images.
    """
    index = load_index(shards)

    def features(name: str, most: int | None) -> LabeledFeatures:
        what = f"features {index.split_version(name)} {most}"
        found = kept.arrays(what, lambda: _features(embedder, shards, name, most, remote))
        return LabeledFeatures(found["features_NE"], found["labels_N"])

    train = features("train", samples)
    validation, asked = (features(name, None) for name in ("validation", split))
    linear_right, _ = linear_hits(train, validation, asked)
    return linear_right, knn_hits(train, asked)


def check_probe_data(shards: Path, split: str) -> None:
    """Look at index and class names alone.

    Raises:
        ConfigError: there are no classes, or one of the three splits is missing.
    """
    index = load_index(shards)
    if load_classes(shards) is None:
        raise ConfigError(f"evaluate.probe_samples: {shards} has no classes; {_REMEDY}")
    missing = [name for name in ("train", "validation", split) if name not in index.splits]
    if missing:
        raise ConfigError(f"evaluate.probe_samples: {shards} has no split {', '.join(missing)}; {_REMEDY}")


def _features(
    embedder: TowerEmbedder, shards: Path, split: str, samples: int | None, remote: ShardCache | None
) -> dict[str, Array]:
    labels: list[int] = []

    records = (record for record in eval_samples(shards, split, remote=remote) if record.label is not None)
    labelled = islice(records, samples)
    first = next(labelled, None)
    if first is None:
        raise ConfigError(f"evaluate.probe_samples: the {split} split has no labelled image; {_REMEDY}")

    def pictures() -> Iterator[Image.Image]:
        for record in chain([first], labelled):
            labels.append(int(record.label or 0))
            yield open_image(record.image)

    try:
        features_NE = embedder.images(pictures())
    except UndecodableImageError as error:
        raise ConfigError(
            f"evaluate.probe_samples: a picture of the {split} split cannot be decoded ({error})"
        ) from None
    return {"features_NE": features_NE, "labels_N": np.array(labels, dtype=np.int64)}


def knn_hits(train: LabeledFeatures, asked: LabeledFeatures, neighbors: int = NEIGHBORS) -> Flags:
    """(M,) whether an asked image's neighbours vote for its class; between equal votes the lower class wins.

    Raises:
        ValueError: no training or no asked image.
    """
    _not_empty(train, asked)
    train_NE, asked_ME = _unit(train.features_NE), _unit(asked.features_NE)
    label_N = torch.from_numpy(np.asarray(train.labels_N, dtype=np.int64))
    classes = int(max(train.labels_N.max(), asked.labels_N.max())) + 1
    right = []
    for low in range(0, len(asked_ME), _ROWS):
        near_RK = (asked_ME[low : low + _ROWS] @ train_NE.T).topk(min(neighbors, len(train_NE)), dim=1)
        vote_RC = torch.zeros(len(near_RK.values), classes, dtype=torch.float64)
        vote_RC.scatter_add_(1, label_N[near_RK.indices], (near_RK.values / _TEMPERATURE).exp())
        right.append(vote_RC.argmax(dim=1).numpy() == asked.labels_N[low : low + _ROWS])
    return np.concatenate(right)


def linear_hits(
    train: LabeledFeatures, validation: LabeledFeatures, asked: LabeledFeatures, penalties: Sequence[float] = PENALTIES
) -> tuple[Flags, float]:
    """(M,) whether the linear classifier is right about an asked image, and the penalty that validation chose.

    Of equally good penalties the largest is taken.

    Raises:
        ValueError: a split without images.
    """
    _not_empty(train, validation, asked)
    if len(np.unique(train.labels_N)) == 1:
        # Nothing to fit: scikit-learn refuses a single class.
        return asked.labels_N == train.labels_N[0], max(penalties)
    fits = {penalty: fit(train, penalty) for penalty in penalties}
    best = max(penalties, key=lambda penalty: (float(_right(fits[penalty], validation).mean()), penalty))
    return _right(fits[best], asked), best


def fit(train: LabeledFeatures, penalty: float) -> LogisticRegression:
    """Softmax regression that minimizes the mean cross-entropy plus penalty / 2 times the squared weights, in float64."""
    # scikit-learn fits two classes by one weight vector, the difference of the two: the same penalty weighs twice as much.
    doubled = 2.0 if len(np.unique(train.labels_N)) == 2 else 1.0
    found = LogisticRegression(C=doubled / (penalty * len(train.labels_N)), max_iter=_STEPS, tol=1e-9)
    with warnings.catch_warnings():
        # A separable problem with almost no penalty is not minimized in so many steps; its answers no longer change.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(np.asarray(train.features_NE, dtype=np.float64), train.labels_N)
    return found


def _right(classifier: LogisticRegression, split: LabeledFeatures) -> Flags:
    return np.asarray(classifier.predict(np.asarray(split.features_NE, dtype=np.float64)) == split.labels_N)


def _unit(features: FloatArray) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(features, dtype=np.float64)), dim=1)


def _not_empty(*splits: LabeledFeatures) -> None:
    if not all(len(split.labels_N) for split in splits):
        raise ValueError("a split without labelled images cannot be probed")
