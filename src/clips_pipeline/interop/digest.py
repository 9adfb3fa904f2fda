"""Digest of a model's files."""

import hashlib
from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.io.digests import file_sha256


def model_digest(path: Path) -> str:
    """Return the SHA-256 over names and content of a model file, or of all files in a model folder.

    Raises:
        ConfigError: there are no files.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ConfigError(f"{path}: no exported model; run `kedro run --pipelines train` first")
    digest = hashlib.sha256()
    for file in files:
        # File names cannot contain NUL, so the encoding is unambiguous.
        name = file.name if file is path else file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file_sha256(file)}\0".encode())
    return digest.hexdigest()
