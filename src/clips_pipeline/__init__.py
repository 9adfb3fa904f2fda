"""clips-pipeline: pre-train CLIPS on web and synthetic captions. Importing this package loads nothing heavy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clips_pipeline.interop.folder import LoadedModel

__version__ = "0.1.0"


def load(path_or_uri: "str | Path") -> "LoadedModel":
    """A trained model, its image transform and its tokenizer, from an exported folder or an MLflow URI.

    See `clips_pipeline.loading.load_model`.
    """
    # Here, because this loads torch.
    from clips_pipeline.loading import load_model

    return load_model(path_or_uri)
