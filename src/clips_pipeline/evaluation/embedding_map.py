"""Two-dimensional map of image and caption embeddings: the first two principal components of the image embeddings.

The projection is linear: points that are near each other on the map may be far apart in the full space, but points that are
far apart on the map are far apart. Images and captions are centered on their own means, because embeddings of images and of
texts lie in two separate cones whose distance (`gap`) would dominate the map.
Shapes: N images, M captions, E embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clips_pipeline.evaluation.metrics.retrieval import FloatArray, IntArray

MOST_POINTS = 200


@dataclass(frozen=True)
class MapPoint:
    """One image on the map.

    Attributes:
        key: key of the sample.
        name: name of its class; None without a class.
        image: position of the image.
        text: position of its first caption; None without captions.
    """

    key: str
    name: str | None
    image: tuple[float, float]
    text: tuple[float, float] | None


@dataclass(frozen=True)
class EmbeddingMap:
    """A subset of the images in a plane that is computed from all images.

    Attributes:
        points: images evenly spaced over the set.
        images: number of images of the whole set.
        explained: fraction of the variance of the image embeddings along each of the two directions.
        gap: distance between the mean image and the mean caption; None without captions.
    """

    points: tuple[MapPoint, ...]
    images: int
    explained: tuple[float, float]
    gap: float | None


def embedding_map(
    image_NE: FloatArray,
    text_ME: FloatArray | None,
    owner_M: IntArray | None,
    keys: Sequence[str],
    names: Sequence[str | None],
) -> EmbeddingMap | None:
    """Compute the map; None for fewer than three images, or if all images have the same embedding.

    Args:
        image_NE, text_ME, owner_M: as for `retrieval_ranks`; the latter two are None without captions.
        keys, names: keys and class names of the N images.
    """
    mean_E = image_NE.mean(axis=0, dtype=np.float64)
    centered_NE = image_NE - mean_E
    # The covariance (E, E) is small for any number of images.
    values_E, directions_EE = np.linalg.eigh(centered_NE.T @ centered_NE / len(image_NE))
    total = float(values_E.sum())
    if len(image_NE) < 3 or len(values_E) < 2 or total < 1e-12:
        return None
    plane_E2 = directions_EE[:, ::-1][:, :2]
    # The sign of an eigenvector is arbitrary. Make its largest component positive, so that the map is deterministic.
    plane_E2 = plane_E2 * np.sign(plane_E2[np.abs(plane_E2).argmax(axis=0), [0, 1]])
    places_N2 = centered_NE @ plane_E2
    texts: dict[int, tuple[float, float]] = {}
    gap = None
    shown = sorted({int(i) for i in np.linspace(0, len(image_NE) - 1, min(MOST_POINTS, len(image_NE)))})
    if text_ME is not None and owner_M is not None:
        text_mean_E = text_ME.mean(axis=0, dtype=np.float64)
        gap = float(np.linalg.norm(text_mean_E - mean_E))
        for i in shown:
            own = np.flatnonzero(owner_M == i)
            # One caption and not the mean of all: means lie nearer to the center than single captions.
            if len(own):
                texts[i] = _pair((text_ME[own[0]] - text_mean_E) @ plane_E2)
    points = tuple(MapPoint(keys[i], names[i], _pair(places_N2[i]), texts.get(i)) for i in shown)
    return EmbeddingMap(points, len(image_NE), _pair(values_E[::-1][:2] / total), gap)


def _pair(values_2: npt.NDArray[Any]) -> tuple[float, float]:
    # Four digits are more than a figure resolves.
    return round(float(values_2[0]), 4), round(float(values_2[1]), 4)
