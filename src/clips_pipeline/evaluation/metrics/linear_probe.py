# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Classification with frozen image features: linear probe and nearest neighbors.

Linear probe: multinomial logistic regression by L-BFGS on the features of the training split, as in CLIP (Radford et al. 2021,
appendix A.3). The weight of the L2 penalty is chosen from a logarithmic grid on the validation split. Nearest neighbors: votes
of the nearest training images, weighted by exp(cosine / 0.07) (Wu et al. 2018).

Shapes: N training images, M evaluated images, C classes, E embedding width, R rows of a chunk, K neighbors.
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
        features_NE: features, one row per image.
        labels_N: class of each image.
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
    cache: EmbeddingCache = NO_CACHE,
) -> tuple[Flags, Flags]:
    """Fit both classifiers on the first labeled images of the training split and evaluate them on a split.

    Args:
        embedder: the model.
        shards: folder with the splits `train`, `validation` and `split`.
        split: split to evaluate.
        samples: maximum number of training images.
        remote: cache for shards in remote storage.
        cache: embedding cache of this model.

    Returns:
        Two arrays (M,): for each labeled image of the split, in order, whether the linear classifier is right, and whether the
        nearest-neighbor classifier is.

    Raises:
        ConfigError: a split has no labeled images.
    """
    index = load_index(shards)

    def features(name: str, most: int | None) -> LabeledFeatures:
        key = f"features {index.split_version(name)} {most}"
        found = cache.load_or_compute(key, lambda: _features(embedder, shards, name, most, remote))
        return LabeledFeatures(found["features_NE"], found["labels_N"])

    train = features("train", samples)
    validation, evaluated = (features(name, None) for name in ("validation", split))
    linear_right, _ = linear_hits(train, validation, evaluated)
    return linear_right, knn_hits(train, evaluated)


def check_probe_data(shards: Path, split: str) -> None:
    """Check index and class names, without reading samples.

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
    labeled = islice(records, samples)
    first = next(labeled, None)
    if first is None:
        raise ConfigError(f"evaluate.probe_samples: the {split} split has no labeled images; {_REMEDY}")

    def images() -> Iterator[Image.Image]:
        for record in chain([first], labeled):
            labels.append(int(record.label or 0))
            yield open_image(record.image, record.limits)

    try:
        features_NE = embedder.images(images())
    except UndecodableImageError as error:
        raise ConfigError(
            f"evaluate.probe_samples: an image of the {split} split cannot be decoded ({error}); prepare again"
        ) from None
    return {"features_NE": features_NE, "labels_N": np.array(labels, dtype=np.int64)}


def knn_hits(train: LabeledFeatures, evaluated: LabeledFeatures, neighbors: int = NEIGHBORS) -> Flags:
    """Return whether the nearest neighbors vote for the image's class, (M,). On a tie the lower class number wins.

    Raises:
        ValueError: there are no training images or no images to evaluate.
    """
    _not_empty(train, evaluated)
    train_NE, image_ME = _unit(train.features_NE), _unit(evaluated.features_NE)
    label_N = torch.from_numpy(np.asarray(train.labels_N, dtype=np.int64))
    classes = int(max(train.labels_N.max(), evaluated.labels_N.max())) + 1
    right = []
    for low in range(0, len(image_ME), _ROWS):
        near_RK = (image_ME[low : low + _ROWS] @ train_NE.T).topk(min(neighbors, len(train_NE)), dim=1)
        vote_RC = torch.zeros(len(near_RK.values), classes, dtype=torch.float64)
        vote_RC.scatter_add_(1, label_N[near_RK.indices], (near_RK.values / _TEMPERATURE).exp())
        right.append(vote_RC.argmax(dim=1).numpy() == evaluated.labels_N[low : low + _ROWS])
    return np.concatenate(right)


def linear_hits(
    train: LabeledFeatures,
    validation: LabeledFeatures,
    evaluated: LabeledFeatures,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Flags, float]:
    """Return whether the linear classifier is right, (M,), and the penalty chosen on the validation split.

    Of equally good penalties the largest is used.

    Raises:
        ValueError: a split has no images.
    """
    _not_empty(train, validation, evaluated)
    if len(np.unique(train.labels_N)) == 1:
        # scikit-learn does not fit a single class.
        return evaluated.labels_N == train.labels_N[0], max(penalties)
    fits = {penalty: fit(train, penalty) for penalty in penalties}
    best = max(penalties, key=lambda penalty: (float(_right(fits[penalty], validation).mean()), penalty))
    return _right(fits[best], evaluated), best


def fit(train: LabeledFeatures, penalty: float) -> LogisticRegression:
    """Fit softmax regression in float64: minimize the mean cross-entropy plus penalty / 2 times the squared weights."""
    # For two classes scikit-learn fits the difference of the two weight vectors, which doubles the weight of the penalty.
    doubled = 2.0 if len(np.unique(train.labels_N)) == 2 else 1.0
    found = LogisticRegression(C=doubled / (penalty * len(train.labels_N)), max_iter=_STEPS, tol=1e-9)
    with warnings.catch_warnings():
        # A separable problem with a tiny penalty does not converge in these steps, but its predictions no longer change.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(np.asarray(train.features_NE, dtype=np.float64), train.labels_N)
    return found


def _right(classifier: LogisticRegression, split: LabeledFeatures) -> Flags:
    return np.asarray(classifier.predict(np.asarray(split.features_NE, dtype=np.float64)) == split.labels_N)


def _unit(features: FloatArray) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(features, dtype=np.float64)), dim=1)


def _not_empty(*splits: LabeledFeatures) -> None:
    if not all(len(split.labels_N) for split in splits):
        raise ValueError("a split has no labeled images")
