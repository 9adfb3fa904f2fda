"""Script that MLflow runs to load a packaged model (models-from-code); it defines and registers the model class."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd

if TYPE_CHECKING:
    from PIL import Image

IMAGE, TEXT = "image", "text"


class ClipsEmbedder(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is not followed by mypy
    """Embeds images and texts in one shared space; embeddings have length one."""

    def load_context(self, context: Any) -> None:
        """Load the exported folder; MLflow calls this once per process."""
        # Imported here: logging a model runs this script too, and does not need torch.
        from clips_pipeline.evaluation.inference.embed import Embedder
        from clips_pipeline.interop.folder import load_model_folder

        loaded = load_model_folder(context.artifacts["model"])
        self._embedder = Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one `embedding` (list of floats) per row.

        Args:
            context: given by MLflow; not used.
            model_input: columns `image` (bytes of an image file, or their base64) and `text`; each row has exactly one
                of them.
            params: no parameters are supported.

        Raises:
            ValueError: a row with neither or both, or an image that cannot be decoded; the message names the row,
                counted from 0.
        """
        images, texts = _values_by_row(model_input, IMAGE), _values_by_row(model_input, TEXT)
        for row in range(len(model_input)):
            if (row in images) == (row in texts):
                found = "both" if row in images else "neither"
                raise ValueError(f"row {row}: give an image or a text; found {found}")
        embeddings: list[list[float]] = [[] for _ in range(len(model_input))]
        if images:
            for row, embedding_E in zip(images, self._embedder.images(_decode_images(images)), strict=True):
                embeddings[row] = embedding_E.tolist()
        if texts:
            for row, embedding_E in zip(texts, self._embedder.texts(texts.values()), strict=True):
                embeddings[row] = embedding_E.tolist()
        return pd.DataFrame({"embedding": embeddings}, index=model_input.index)


def _values_by_row(table: pd.DataFrame, column: str) -> dict[int, Any]:
    """Return values by row number. Empty cells are None or NaN, which are neither text nor bytes."""
    if column not in table.columns:
        return {}
    return {row: value for row, value in enumerate(table[column]) if isinstance(value, bytes | bytearray | str)}


def _decode_images(values: Mapping[int, Any]) -> "Iterator[Image.Image]":
    from clips_pipeline.data.images.transforms import UndecodableImageError
    from clips_pipeline.evaluation.inference.embed import open_image

    for row, value in values.items():
        try:
            yield open_image(base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value))
        except binascii.Error:
            raise ValueError(
                f"row {row}: the image is text but not valid base64; give the bytes of an image file or their base64"
            ) from None
        except UndecodableImageError as error:
            raise ValueError(f"row {row}: the image cannot be decoded: {error}") from None


mlflow.models.set_model(ClipsEmbedder())
