"""Embedder with fixed embeddings, so that every metric can be computed by hand."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.evaluation.metrics.retrieval import FloatArray


class FixedEmbedder(Embedder):
    """A real model with fixed embeddings; images get theirs in the order in which they are read."""

    def set_embeddings(
        self, images: Sequence[Sequence[float]], texts: Mapping[str, Sequence[float]]
    ) -> "FixedEmbedder":
        self.fixed_images, self.fixed_texts = list(images), texts
        return self

    def image_batch(self, images_BCHW) -> FloatArray:
        batch, self.fixed_images = self.fixed_images[: len(images_BCHW)], self.fixed_images[len(images_BCHW) :]
        return unit(batch)

    def texts(self, texts: Iterable[str]) -> FloatArray:
        return unit([self.fixed_texts[text] for text in texts])


def unit(rows) -> FloatArray:
    rows_NE = np.asarray(rows, dtype=np.float32)
    return rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)
