"""clips-pipeline: pre-train CLIPS on web and synthetic captions. Importing this package imports no heavy dependency."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clips_pipeline.loading import Clips, Dtype

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(
    path_or_uri: "str | Path",
    *,
    device: str = "cpu",
    dtype: "Dtype" = "float32",
    batch_size: int = 64,
    progress: bool | None = None,
) -> "Clips":
    """Load a trained model for embedding and captioning, from an exported folder or an MLflow URI.

    Arguments and errors are those of `clips_pipeline.loading.load_model`.
    """
    # Imported here because it loads torch.
    from clips_pipeline.config import ConfigError
    from clips_pipeline.loading import load_model

    try:
        return load_model(path_or_uri, device=device, dtype=dtype, batch_size=batch_size, progress=progress)
    except ConfigError as error:
        # Raised from here, so that the traceback shows no internal frames.
        raise ConfigError(str(error)) from None
