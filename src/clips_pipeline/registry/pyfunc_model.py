"""The script MLflow runs to load a packaged model (models-from-code). Not for import: running it declares the model."""

import base64
import binascii
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]

IMAGE, TEXT = "image", "text"


class ClipsEmbedder(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Images and texts to embeddings of length one, in one shared space."""

    def load_context(self, context: Any) -> None:
        """Load the exported folder; called by MLflow once per process."""
        # Here and not above: logging a model runs this script too, and needs no torch.
        from clips_pipeline.evaluation.embed import Embedder
        from clips_pipeline.interop.folder import load_model_folder

        self._embedder = Embedder(load_model_folder(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One `embedding` (list of floats) per row.

        Args:
            context: given by MLflow; unused after loading.
            model_input: columns `image` (bytes of an image file, or base64 of them) and `text`; a row fills just one.
            params: none are known.

        Raises:
            ValueError: a row with neither or both, or an image that cannot be decoded; the message names the row.
        """
        images = {row: _image_bytes(row, value) for row, value in _filled(model_input, IMAGE)}
        texts = {row: str(value) for row, value in _filled(model_input, TEXT)}
        for row in range(len(model_input)):
            if (row in images) == (row in texts):
                raise ValueError(
                    f"row {row}: give an image or a text, {'not both' if row in images else 'found neither'}"
                )
        embeddings: list[list[float]] = [[] for _ in range(len(model_input))]
        for rows, embed in ((images, self._embedder.image_files), (texts, self._embedder.texts)):
            if rows:
                for row, embedding_E in zip(rows, embed(list(rows.values())), strict=True):
                    embeddings[row] = embedding_E.tolist()
        return pd.DataFrame({"embedding": embeddings}, index=model_input.index)


def _filled(table: pd.DataFrame, column: str) -> list[tuple[int, Any]]:
    if column not in table.columns:
        return []
    return [(row, value) for row, value in enumerate(table[column]) if isinstance(value, bytes | bytearray | str)]


def _image_bytes(row: int, value: Any) -> bytes:
    if not isinstance(value, str):
        return bytes(value)
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError(f"row {row}: the image is text, but not base64 of an image file") from None


mlflow.models.set_model(ClipsEmbedder())
