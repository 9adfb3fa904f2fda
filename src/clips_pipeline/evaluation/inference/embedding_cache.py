"""Embeddings kept between evaluations, under a digest of all they follow from: model, input, device and format version.

Entries never go stale: another model, another set or another version of how embeddings are made has another name. The folder
may be deleted at any time.
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

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EmbeddingCache:
    """The embeddings of one model.

    Attributes:
        folder: made when something is kept first; None keeps nothing.
        model: digest of the model's files.
        device: type of the device it runs on; another one rounds in another way.
        samples: digest of the samples that are evaluated.
    """

    folder: Path | None = None
    model: str = ""
    device: str = ""
    samples: str = ""

    def arrays(self, what: str, make: Callable[[], Mapping[str, Array]]) -> Mapping[str, Array]:
        """What was kept under `what`, or else what `make` gives, which is kept."""
        if self.folder is None:
            return make()
        origin = "\0".join((self.model, self.device, torch.__version__, str(formats.EMBEDDINGS), what))
        path = self.folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.npz"
        try:
            # Opened here: numpy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            log.info("%s: used again", path)
            return found
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s); it is made again", path, error)
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as temporary, temporary.open("wb") as out:
            np.savez(out, **made)  # type: ignore[arg-type]  # its second parameter is no array
        return made

    def texts(self, encode: Callable[[Iterable[str]], FloatArray], texts: Iterable[str]) -> FloatArray:
        """(N, E) embeddings of texts by `encode`, or as they were kept."""
        wanted = list(texts)
        digest = hashlib.sha256("".join(f"{len(text)} {text}" for text in wanted).encode("utf-8", "surrogatepass"))
        found = self.arrays(f"texts {digest.hexdigest()}", lambda: {"embeddings": encode(wanted)})
        return np.asarray(found["embeddings"])


NO_CACHE = EmbeddingCache()
