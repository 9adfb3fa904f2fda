"""An embedder whose embeddings are written down, so that every metric can be counted by hand."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.evaluation.metrics.retrieval import FloatArray


class ToldEmbedder(Embedder):
    """A real model for all but embeddings; pictures get theirs in the order in which they are read."""

    def tell(self, images: Sequence[Sequence[float]], texts: Mapping[str, Sequence[float]]) -> "ToldEmbedder":
        self.told_images, self.told_texts = list(images), texts
        return self

    def image_batch(self, images_BCHW) -> FloatArray:
        batch, self.told_images = self.told_images[: len(images_BCHW)], self.told_images[len(images_BCHW) :]
        return unit(batch)

    def texts(self, texts: Iterable[str]) -> FloatArray:
        return unit([self.told_texts[text] for text in texts])


def unit(rows) -> FloatArray:
    rows_NE = np.asarray(rows, dtype=np.float32)
    return rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)
