"""Script that MLflow runs to load a packaged model (models-from-code); it defines and registers the model class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

IMAGE, TEXT = "image", "text"
EMBEDDING, ERROR = "embedding", "error"


class ClipsEmbedder(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is not followed by mypy
    """Embeds images and texts in one shared space; embeddings have length one."""

    def load_context(self, context: Any) -> None:
        """Load the exported folder; MLflow calls this once per process."""
        # Imported here: logging a model runs this script too, and does not need torch.
        from clips_pipeline.evaluation.inference.embed import Embedder
        from clips_pipeline.interop.folder import load_model_folder

        loaded = load_model_folder(context.artifacts["model"])
        self._embedder = Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)
        self._length = loaded.model.config.text.context_length

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return an `embedding` (list of floats) for each row, or None and the `error` that says why.

        Args:
            context: given by MLflow; not used.
            model_input: a table, or what pandas makes one of (MLflow's server gives lists too). Columns: `image` (bytes of an
                image file, or their base64) and `text`; each row has exactly one of them.
            params: no parameters are supported.

        Raises:
            MlflowException: there are other columns, or no row has an embedding; MLflow's server answers with status 400.
        """
        table = _as_table(model_input)
        errors: dict[int, str] = {}
        images, texts = _values_by_row(table, IMAGE), _values_by_row(table, TEXT)
        for row in range(len(table)):
            if (row in images) == (row in texts):
                errors[row] = f"give an image or a text; found {'both' if row in images else 'neither'}"
        embeddings: list[list[float] | None] = [None] * len(table)
        for values, prepare, embed in (
            (images, self._image, self._embed_images),
            (texts, self._row, self._embed_rows),
        ):
            self._embed(
                {row: value for row, value in values.items() if row not in errors}, prepare, embed, embeddings, errors
            )
        if errors and len(errors) == len(table):
            first = min(errors)
            raise _invalid(f"row {first}: {errors[first]}")
        columns = {EMBEDDING: embeddings, ERROR: [errors.get(row) for row in range(len(table))]}
        return pd.DataFrame(columns, index=table.index, dtype=object)

    def _embed(
        self,
        values: Mapping[int, Any],
        prepare: Callable[[Any], Any],
        embed: Callable[[Sequence[Any]], np.ndarray[Any, Any]],
        embeddings: list[list[float] | None],
        errors: dict[int, str],
    ) -> None:
        """Embed in batches and fill in embeddings and errors."""
        from clips_pipeline.evaluation.inference.checked_inputs import RefusedInputError
        from clips_pipeline.evaluation.inference.embed import iterate_batches

        for rows in iterate_batches(values, self._embedder.batch_size):
            ready: dict[int, Any] = {}
            for row in rows:
                try:
                    ready[row] = prepare(values[row])
                except RefusedInputError as error:
                    errors[row] = str(error)
            if ready:
                for row, embedding_E in zip(ready, embed(list(ready.values())), strict=True):
                    embeddings[row] = embedding_E.tolist()

    def _image(self, value: Any) -> Any:
        from clips_pipeline.evaluation.inference.checked_inputs import RefusedInputError, image_tensor

        if not isinstance(value, bytes | bytearray | str):
            raise RefusedInputError("type", "the image is neither bytes nor base64; give an image file")
        data = value if isinstance(value, str) else bytes(value)
        return image_tensor(data, self._embedder.towers.image_transform)

    def _row(self, value: Any) -> list[int]:
        from clips_pipeline.evaluation.inference.checked_inputs import NO_TEXT_TOWER, RefusedInputError, text_row

        if not self._embedder.reads_text:
            raise RefusedInputError("type", NO_TEXT_TOWER)
        if not isinstance(value, str):
            raise RefusedInputError("type", "the text is no text; give one")
        return text_row(value, self._embedder.tokenizer, self._length)

    def _embed_images(self, images: Sequence[Any]) -> np.ndarray[Any, Any]:
        import torch

        return self._embedder.image_batch(torch.stack(list(images)))

    def _embed_rows(self, rows: Sequence[list[int]]) -> np.ndarray[Any, Any]:
        import torch

        return self._embedder.text_batch(torch.tensor(list(rows)))


def _as_table(model_input: Any) -> pd.DataFrame:
    """Return the input as a table. Without an input schema, MLflow passes on whatever a client sent.

    Raises:
        MlflowException: it is no table, or has other columns.
    """
    try:
        table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
    except (ValueError, TypeError):
        raise _invalid("the input is no table; give rows with the column image or text") from None
    unknown = [str(name)[:40] for name in table.columns if name not in (IMAGE, TEXT)]
    if unknown:
        raise _invalid(f"unknown columns: {', '.join(unknown[:5])}; known: {IMAGE}, {TEXT}")
    if not table.columns.is_unique:
        raise _invalid("a column occurs twice; give image and text once")
    return table


def _values_by_row(table: pd.DataFrame, column: str) -> dict[int, Any]:
    """Return values by row number, without empty cells (None or NaN)."""
    if column not in table.columns:
        return {}
    # MLflow's server makes a scalar of `inputs` an array without dimensions.
    cells = (cell.item() if isinstance(cell, np.ndarray) and not cell.ndim else cell for cell in table[column])
    return {row: cell for row, cell in enumerate(cells) if not (cell is None or cell is pd.NA or _is_nan(cell))}


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float) and np.isnan(cell)


def _invalid(message: str) -> MlflowException:
    # MLflow's server shows the traceback of any other exception to the client.
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(ClipsEmbedder())
