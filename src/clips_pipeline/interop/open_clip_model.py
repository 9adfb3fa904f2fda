"""Loading of open_clip models with their own tokenizer and preprocessing, for evaluation with this project's code.

The package `open_clip_torch` loads the files (`pip install 'clips-pipeline[open-clip]'`); nothing is downloaded.

Shapes: B batch, C H W image, L context length, E embedding width.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.config import ConfigError, flatten
from clips_pipeline.interop.folder import Towers

CONFIG_FILE = "open_clip_config.json"
"""Configuration of model, preprocessing and tokenizer, as open_clip's `push_to_hf_hub` and `save_for_hf` write it."""

_RUNS_CODE = ("trust_remote_code", "code_revision")
_MAX_CONFIG_BYTES = 1 << 20
_TEST_TEXT = "a text to try the tokenizer with"


def is_open_clip(path: Path, architecture: str | None) -> bool:
    """Return whether `path` is a folder of open_clip, or a checkpoint whose architecture is given."""
    return architecture is not None or (path / CONFIG_FILE).is_file()


def load_open_clip(path: Path, architecture: str | None = None) -> Towers:
    """Load a model from local files, on the CPU and in evaluation mode. Files with pickled code are refused.

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
            f"evaluate.model: {path} needs open_clip; install it with `pip install 'clips-pipeline[open-clip]'`"
        ) from None
    path = path.resolve()
    if architecture is not None and not path.is_file():
        raise ConfigError(f"evaluate.model: {path}: no such checkpoint file; {_two_ways()}")
    if architecture is not None and architecture not in open_clip.list_models():
        raise ConfigError(
            f"evaluate.architecture: open_clip {open_clip.__version__} has no {architecture!r}; "
            "`open_clip.list_models()` lists the known names"
        )
    name = f"local-dir:{path}" if architecture is None else architecture
    if architecture is None:
        _refuse_code(path)
    try:
        module, _, transform = open_clip.create_model_and_transforms(
            name,
            pretrained=None if architecture is None else str(path),
            pretrained_text=False,
            weights_only=True,
            require_pretrained=True,
        )
    # open_clip raises AssertionError if sizes differ.
    except (AssertionError, RuntimeError, OSError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"evaluate.model: open_clip cannot load {path} ({_first_line(error)}); {_two_ways()}"
        ) from None
    try:
        tokenizer = open_clip.get_tokenizer(name)
    except (ImportError, OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"evaluate.model: the tokenizer of {path} cannot be loaded ({_first_line(error)}); copy its files into the folder"
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


def _refuse_code(folder: Path) -> None:
    """Refuse a model folder that asks for code of its own, or of a hub, to be run.

    open_clip passes `tokenizer_kwargs` and names of Hugging Face models on to transformers, which imports the Python files that
    an `auto_map` names, or asks on the terminal whether it may.

    Raises:
        ConfigError: names the file and the key.
    """
    config = _flat_json(folder / CONFIG_FILE)
    for key, value in config.items():
        if key.rpartition(".")[2] in _RUNS_CODE and value not in (None, False):
            raise ConfigError(
                f"evaluate.model: {folder / CONFIG_FILE}: {key} asks for code of the model to be run, which is never done; "
                "remove the key, and use the tokenizer's own files"
            )
    names = (config.get(f"model_cfg.text_cfg.{key}") for key in ("hf_model_name", "hf_tokenizer_name"))
    for place in (folder, *(Path(name) for name in names if isinstance(name, str))):
        for file in (place / "config.json", place / "tokenizer_config.json"):
            if file.is_file() and any(key.partition(".")[0] == "auto_map" for key in _flat_json(file)):
                raise ConfigError(
                    f"evaluate.model: {file}: auto_map names code of the model to be run, which is never done; remove the "
                    "key, if transformers has the architecture itself"
                )


def _flat_json(file: Path) -> dict[str, Any]:
    """Read a small JSON object of a foreign folder; nested keys are joined by dots."""
    try:
        found = json.loads(file.read_bytes()) if file.stat().st_size <= _MAX_CONFIG_BYTES else None
        if isinstance(found, dict):
            return flatten(found)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"evaluate.model: {file} cannot be read: {_first_line(error)}; {_two_ways()}") from None
    raise ConfigError(
        f"evaluate.model: {file} is not a JSON object of at most {_MAX_CONFIG_BYTES} bytes; {_two_ways()}"
    )


@dataclass(frozen=True)
class _Rows:
    tokenizer: Callable[[list[str]], Tensor]
    vocabulary: int
    path: Path

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids_BL = self.tokenizer(list(texts))
        if int(ids_BL.max()) >= self.vocabulary:
            raise ConfigError(
                f"evaluate.model: {self.path}: the tokenizer returns id {int(ids_BL.max())}, but the text tower has "
                f"{self.vocabulary}; use the tokenizer of this model"
            )
        return ids_BL


@torch.no_grad()
def _try_text(model: Towers, path: Path) -> None:
    rows_BL = model.text_rows([_TEST_TEXT])
    try:
        model.encode_text(rows_BL)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ConfigError(
            f"evaluate.model: {path}: the text tower cannot read rows of {rows_BL.shape[1]} tokens ({_first_line(error)}); use the "
            "tokenizer of this model"
        ) from None


def _vocabulary(module: Any) -> int:
    text = getattr(module, "text", module)
    table = getattr(text, "token_embedding", None)
    # Towers of Hugging Face have no `token_embedding` attribute.
    return int(table.num_embeddings if table is not None else text.vocab_size)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _two_ways() -> str:
    return f"give a folder with {CONFIG_FILE} and its weights, or a checkpoint with tensors only and its evaluate.architecture"
