"""Images and captions in a plane: the first two principal components of the image embeddings.

A linear view, so that what is near in it may be far apart in truth, but nothing far in it is near. Both kinds of points are
centred on a mean of their own: embeddings of images and of texts lie in two cones whose distance (`gap`) would hide all else.
Legend of suffixes: N images, M captions, E embedding width.
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
    """One image.

    Attributes:
        key: of its sample.
        name: of its class; None where it has none.
        image: where it lies.
        text: where the first of its captions lies; None where it has none.
    """

    key: str
    name: str | None
    image: tuple[float, float]
    text: tuple[float, float] | None


@dataclass(frozen=True)
class EmbeddingMap:
    """Some of the images in a plane made from all.

    Attributes:
        points: evenly spaced over the set.
        images: of the whole set.
        explained: shares of the variance of image embeddings that the two directions hold.
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
    """Make the map; None for fewer than three images, or images that all have one embedding.

    Args:
        image_NE, text_ME, owner_M: as for `retrieval_ranks`; both None without captions.
        keys, names: of the N images.
    """
    mean_E = image_NE.mean(axis=0, dtype=np.float64)
    centred_NE = image_NE - mean_E
    # The covariance is small whatever the number of images.
    values_E, directions_EE = np.linalg.eigh(centred_NE.T @ centred_NE / len(image_NE))
    total = float(values_E.sum())
    if len(image_NE) < 3 or len(values_E) < 2 or total < 1e-12:
        return None
    plane_E2 = directions_EE[:, ::-1][:, :2]
    # A direction has no sign of its own: its largest part is made positive, so that the same embeddings give the same map.
    plane_E2 = plane_E2 * np.sign(plane_E2[np.abs(plane_E2).argmax(axis=0), [0, 1]])
    places_N2 = centred_NE @ plane_E2
    texts: dict[int, tuple[float, float]] = {}
    gap = None
    shown = sorted({int(i) for i in np.linspace(0, len(image_NE) - 1, min(MOST_POINTS, len(image_NE)))})
    if text_ME is not None and owner_M is not None:
        text_mean_E = text_ME.mean(axis=0, dtype=np.float64)
        gap = float(np.linalg.norm(text_mean_E - mean_E))
        for i in shown:
            own = np.flatnonzero(owner_M == i)
            # Not the mean of all: means of many lie nearer to the middle than any of them.
            if len(own):
                texts[i] = _pair((text_ME[own[0]] - text_mean_E) @ plane_E2)
    points = tuple(MapPoint(keys[i], names[i], _pair(places_N2[i]), texts.get(i)) for i in shown)
    return EmbeddingMap(points, len(image_NE), _pair(values_E[::-1][:2] / total), gap)


def _pair(values_2: npt.NDArray[Any]) -> tuple[float, float]:
    # Four digits are more than a picture shows.
    return round(float(values_2[0]), 4), round(float(values_2[1]), 4)
