"""Any model of open_clip, with its own tokenizer and preprocessing, to be measured by the code that measures ours.

The package `open_clip_torch` does the loading (`pip install 'clips-pipeline[open-clip]'`); nothing is fetched from a network.

Shapes: B batch, C H W image, L context length, E embedding width.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.folder import Towers

if TYPE_CHECKING:
    pass

CONFIG_FILE = "open_clip_config.json"
"""Beside weights: model, preprocessing and tokenizer, as open_clip's `push_to_hf_hub` and `save_for_hf` write it."""

_TRIED = "a text to try the tokenizer with"


def is_open_clip(path: Path, architecture: str | None) -> bool:
    """Whether `path` is a folder of open_clip, or a checkpoint with the name of its architecture."""
    return architecture is not None or (path / CONFIG_FILE).is_file()


def load_open_clip(path: Path, architecture: str | None = None) -> Towers:
    """Load a model by its files alone, on the CPU and in evaluation mode; pickled code in them is refused.

    Args:
        path: a folder with `open_clip_config.json` and weights (and the tokenizer's files, where it is none of open_clip's own);
            or a checkpoint file, with `architecture`.
        architecture: open_clip's name of what the file holds, such as `ViT-B-16`; None for a folder.

    Raises:
        ConfigError: the package or a file is missing, the architecture is unknown, weights do not fit it, or the tokenizer does
            not fit the model.
    """
    try:
        import open_clip
    except ImportError:
        raise ConfigError(
            f"evaluate.model: {path} needs open_clip; install it with `pip install 'clips-pipeline[open-clip]'`"
        ) from None
    path = path.resolve()
    if architecture is not None and not path.is_file():
        raise ConfigError(f"evaluate.model: {path}: no such checkpoint file; {_two_ways()}")
    if architecture is not None and architecture not in open_clip.list_models():
        raise ConfigError(
            f"evaluate.architecture: open_clip {open_clip.__version__} has no {architecture!r}; "
            "`open_clip.list_models()` tells those it has"
        )
    name = f"local-dir:{path}" if architecture is None else architecture
    try:
        module, _, transform = open_clip.create_model_and_transforms(
            name,
            pretrained=None if architecture is None else str(path),
            pretrained_text=False,
            weights_only=True,
            require_pretrained=True,
        )
    # It asserts where sizes differ.
    except (AssertionError, RuntimeError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"evaluate.model: open_clip cannot load {path} ({_first_line(error)}); {_two_ways()}"
        ) from None
    try:
        tokenizer = open_clip.get_tokenizer(name)
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"evaluate.model: no tokenizer for {path} ({_first_line(error)}); put its files into the folder"
        ) from None
    rows = _Rows(tokenizer, _vocabulary(module), path)
    found = Towers(
        module.eval(),
        partial(module.encode_image, normalize=True),
        partial(module.encode_text, normalize=True),
        transform,
        rows,
    )
    _try_text(found, path)
    return found


@dataclass(frozen=True)
class _Rows:
    tokenizer: Callable[[list[str]], Tensor]
    vocabulary: int
    path: Path

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids_BL = self.tokenizer(list(texts))
        if int(ids_BL.max()) >= self.vocabulary:
            raise ConfigError(
                f"evaluate.model: {self.path}: its tokenizer gives id {int(ids_BL.max())}, and the text tower knows "
                f"{self.vocabulary}; the tokenizer is another model's"
            )
        return ids_BL


@torch.no_grad()
def _try_text(model: Towers, path: Path) -> None:
    rows_BL = model.text_rows([_TRIED])
    try:
        model.encode_text(rows_BL)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ConfigError(
            f"evaluate.model: {path}: its text tower cannot read rows of {rows_BL.shape[1]} tokens ({_first_line(error)}); the "
            "tokenizer is another model's"
        ) from None


def _vocabulary(module: Any) -> int:
    text = getattr(module, "text", module)
    table = getattr(text, "token_embedding", None)
    # A tower of Hugging Face hides its own.
    return int(table.num_embeddings if table is not None else text.vocab_size)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _two_ways() -> str:
    return f"give a folder with {CONFIG_FILE} and its weights, or a checkpoint of tensors alone and its evaluate.architecture"
