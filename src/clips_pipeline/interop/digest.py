"""Which model was meant: one digest of its files."""

import hashlib
from pathlib import Path

from clips_pipeline.config import ConfigError


def model_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of a model's file, or of all files below its folder: equal exactly for equal contents.

    Raises:
        ConfigError: there is no file.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ConfigError(f"{path}: no exported model here; run `kedro run --pipelines train` first")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        # A name cannot hold NUL, so no two lists of files run together into the same bytes.
        name = file.name if file is path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()
