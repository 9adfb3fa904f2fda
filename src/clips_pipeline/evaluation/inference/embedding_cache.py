"""Content-addressed embedding cache: the key is a digest of model, input, device, torch version and format version.

Entries never go stale, since any other model, set or format version has another key. The folder may be deleted at any time.
"""

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clips_pipeline import formats
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.io.terminal import shown_path

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EmbeddingCache:
    """Cached embeddings of one model.

    Attributes:
        folder: folder of the cache, created on first use; None disables the cache.
        model: digest of the model's files.
        device: type of the device, since rounding differs between devices.
        samples: digest of the evaluated samples.
    """

    folder: Path | None = None
    model: str = ""
    device: str = ""
    samples: str = ""

    def load_or_compute(self, name: str, compute: Callable[[], Mapping[str, Array]]) -> Mapping[str, Array]:
        """Return the cached arrays of `name`, or compute and store them."""
        if self.folder is None:
            return compute()
        origin = "\0".join((self.model, self.device, torch.__version__, str(formats.EMBEDDINGS), name))
        path = self.folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.npz"
        try:
            # Opened here, because NumPy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                found = {key: file[key] for key in file.files}
            log.info("%s: cached embeddings are used", shown_path(path))
            return found
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s: damaged (%s); computing it again", path, error)
        computed = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary, temporary.open("wb") as out:
            np.savez(out, **computed)  # type: ignore[arg-type]  # its second parameter is not an array
        return computed

    def embed_texts(self, encode: Callable[[Iterable[str]], FloatArray], texts: Iterable[str]) -> FloatArray:
        """Return (N, E) embeddings of texts, from the cache or by `encode`."""
        wanted = list(texts)
        digest = hashlib.sha256("".join(f"{len(text)} {text}" for text in wanted).encode("utf-8", "surrogatepass"))
        found = self.load_or_compute(f"texts {digest.hexdigest()}", lambda: {"embeddings": encode(wanted)})
        return np.asarray(found["embeddings"])


NO_CACHE = EmbeddingCache()
