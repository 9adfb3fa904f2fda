"""Loading of open_clip models with their own tokenizer and preprocessing, for evaluation with this project's code.

The package `open_clip_torch` loads the files (`pip install 'clips-pipeline[open-clip]'`); nothing is downloaded.

Shapes: B batch, C H W image, L context length, E embedding width.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.folder import Towers
from clips_pipeline.interop.foreign_weights import SUFFIX, check_weights_file, find_weights_file, load_weights_file
from clips_pipeline.interop.open_clip_config import CONFIG_FILE, KEY, check_config, first_line
from clips_pipeline.io.temporary import temporary_folder

_TEST_IMAGE = (40, 30)
_TEST_TEXT = "a text to try the tokenizer with"


def is_open_clip(path: Path, architecture: str | None) -> bool:
    """Return whether `path` is a folder of open_clip, or a checkpoint whose architecture is given."""
    return architecture is not None or (path / CONFIG_FILE).is_file()


def load_open_clip(path: Path, architecture: str | None = None) -> Towers:
    """Load a model from local files, on the CPU and in evaluation mode. Nothing of them is unpickled.

    Args:
        path: a folder with `open_clip_config.json`, weights, and the files of the tokenizer unless it is one of open_clip's;
            or, with `architecture`, a checkpoint file.
        architecture: open_clip's name of the architecture, such as `ViT-B-16`; None for a folder.

    Raises:
        ConfigError: the package or a file is missing, the architecture is unknown, or weights or tokenizer do not fit.
    """
    try:
        import open_clip
    except ImportError:
        raise ConfigError(
            f"{KEY}: {path} needs open_clip; install it with `pip install 'clips-pipeline[open-clip]'`"
        ) from None
    path = path.resolve()
    if architecture is None:
        weights = find_weights_file(path, KEY)
        check_config(path, weights)
        name = f"local-dir:{path}"
    else:
        weights, name = path, architecture
        check_weights_file(path, KEY)
        if architecture not in open_clip.list_models():
            raise ConfigError(
                f"evaluate.architecture: open_clip {open_clip.__version__} has no {architecture!r}; "
                "`open_clip.list_models()` lists the known names"
            )
    with _one_error(f"open_clip cannot load {path}", _two_ways()), _offline(), _without_warning():
        # Not by `create_model`, which chooses among a folder's files itself, pickles included.
        module, _, transform = open_clip.create_model_and_transforms(name, load_weights=False, pretrained_text=False)
        with _as_safetensors(weights) as readable:
            open_clip.load_checkpoint(module, str(readable))
    with _one_error(f"the tokenizer of {path} cannot be loaded", "copy its files into the folder"), _offline():
        tokenizer = open_clip.get_tokenizer(name)
    rows = _Rows(tokenizer, _vocabulary(module), path)
    found = Towers(
        module.eval(),
        partial(module.encode_image, normalize=True),
        partial(module.encode_text, normalize=True),
        transform,
        rows,
    )
    _try(found, path)
    return found


@contextmanager
def _as_safetensors(weights: Path) -> Iterator[Path]:
    """Yield a safetensors file with these weights: open_clip would unpickle any other."""
    if weights.suffix == SUFFIX:
        yield weights
        return
    with temporary_folder() as folder:
        converted = folder / f"weights{SUFFIX}"
        save_file(load_weights_file(weights, KEY), converted)
        yield converted


@contextmanager
def _one_error(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever open_clip, transformers and their compiled parts raise for a foreign file into one error."""
    try:
        yield
    except (ConfigError, KeyboardInterrupt, SystemExit):
        raise
    # The compiled tokenizers panic with an exception that is no `Exception`.
    except BaseException as error:
        raise ConfigError(f"{KEY}: {what} ({first_line(error)}); {remedy}") from None


@contextmanager
def _without_warning() -> Iterator[None]:
    """Drop open_clip's warning that the model has no weights; they are loaded after it is built."""

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep huggingface_hub, which reads its environment only once, from requests: a model may name others of the hub."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@dataclass(frozen=True)
class _Rows:
    tokenizer: Callable[[list[str]], Tensor]
    vocabulary: int
    path: Path

    def __call__(self, texts: Sequence[str]) -> Tensor:
        with _one_error(f"the tokenizer of {self.path} fails for a text", "use the tokenizer of a published model"):
            ids_BL = self.tokenizer(list(texts))
        if int(ids_BL.max()) >= self.vocabulary:
            raise ConfigError(
                f"{KEY}: {self.path}: the tokenizer returns id {int(ids_BL.max())}, but the text tower has "
                f"{self.vocabulary}; use the tokenizer of this model"
            )
        return ids_BL


@torch.no_grad()
def _try(model: Towers, path: Path) -> None:
    """Encode a text and an image, so that files which do not belong together are found before the evaluation."""
    with _one_error(
        f"the text tower of {path} cannot read what its tokenizer makes", "use the tokenizer of this model"
    ):
        model.encode_text(model.text_rows([_TEST_TEXT]))
    with _one_error(f"the vision tower of {path} cannot read what its preprocessing makes", "correct preprocess_cfg"):
        model.encode_image(model.image_transform(Image.new("RGB", _TEST_IMAGE))[None])


def _vocabulary(module: Any) -> int:
    text = getattr(module, "text", module)
    table = getattr(text, "token_embedding", None)
    # Towers of Hugging Face have no `token_embedding` attribute.
    return int(table.num_embeddings if table is not None else text.vocab_size)


def _two_ways() -> str:
    return f"give a folder with {CONFIG_FILE} and its weights, or a file of weights and its evaluate.architecture"
