"""Model folder: weights, configuration and tokenizer of a trained model.

model.safetensors        all weights, including the captioner's, under this project's names
config.json              format, version, configuration of the model, parameters of the image transform
tokenizer_config.json, vocab.txt or merges.txt.gz
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clips_pipeline.config import ConfigError, from_mapping, to_mapping, with_current_names
from clips_pipeline.io.atomic import replace_folder
from clips_pipeline.io.json_text import parse_json
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL import Image

    from clips_pipeline.data.images.transforms import ImageConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
ORIGIN = "origin"
"""Key of config.json: where imported weights came from."""
FORMAT = "clips-pipeline"
VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model with its image transform and tokenizer.

    Attributes:
        model: model on the CPU, in evaluation mode.
        image_transform: maps an image to the normalized (3, H, W) tensor that `encode_image` takes in batches.
        tokenizer: tokenizer of the training; rows have `model.config.text.context_length` ids.
        config: content of config.json.
        images: parameters of the image transform.
    """

    model: ClipsModel
    image_transform: "Callable[[Image.Image], Tensor]"
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    images: "ImageConfig"


@dataclass(frozen=True)
class Towers:
    """Vision tower and text tower of any model, with image transform and tokenizer.

    Attributes:
        module: module with all weights.
        encode_image: maps (B, C, H, W) to (B, E) with unit norm.
        encode_text: maps rows (B, L) to (B, E) with unit norm.
        image_transform: maps an image to (C, H, W), deterministically.
        text_rows: maps texts to rows (B, L) with the tokenizer of the training.
    """

    module: torch.nn.Module
    encode_image: Callable[[Tensor], Tensor]
    encode_text: Callable[[Tensor], Tensor]
    image_transform: "Callable[[Image.Image], Tensor]"
    text_rows: Callable[[Sequence[str]], Tensor]


def save_model(
    model: ClipsModel,
    tokenizer_dir: Path,
    image_mapping: Mapping[str, Any],
    out_dir: Path,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder atomically: to a temporary folder, which is then renamed.

    Args:
        model: model on any device.
        tokenizer_dir: folder of a saved tokenizer; its files are copied.
        image_mapping: `data.images.transforms.ImageConfig` as plain values.
        out_dir: folder to write; replaced if it exists.
        origin: where the weights came from, if this project did not train them (`import_model.Origin`).

    Returns:
        `out_dir`.

    Raises:
        ConfigError: `tokenizer_dir` is not a folder, or contains a file named like one of the model folder.
    """
    tokenizer_dir, out_dir = Path(tokenizer_dir), Path(out_dir)
    if not tokenizer_dir.is_dir():
        raise ConfigError(f"{tokenizer_dir}: no tokenizer folder; give the one that `prepare` wrote")
    with replace_folder(out_dir) as folder:
        for file in sorted(tokenizer_dir.iterdir()):
            if file.name in (WEIGHTS_FILE, CONFIG_FILE):
                raise ConfigError(f"{file}: a tokenizer folder must not contain {file.name}; remove that file")
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "model": _model_mapping(model.config),
            "images": dict(image_mapping),
            **({ORIGIN: dict(origin)} if origin else {}),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_weights(weights, folder / WEIGHTS_FILE)
    return out_dir


def _model_mapping(config: ClipsConfig) -> dict[str, Any]:
    """Return the configuration without keys that later versions added and that have their defaults: earlier ones refuse them."""
    mapping = to_mapping(config)
    added = {"contrastive": "softmax", "text_tower": True}
    return {key: value for key, value in mapping.items() if key not in added or value != added[key]}


def save_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write contiguous tensors on the CPU as a safetensors file."""
    save_file(dict(weights), file, metadata={"format": "pt"})
    # safetensors sets mode 600; that of a new folder follows the umask, as the modes of other files do.
    file.chmod(file.parent.stat().st_mode & 0o666)


def check_replaceable(folder: Path, mark: str = CONFIG_FILE, begins: str = f'{{\n  "format": "{FORMAT}"') -> None:
    """Refuse to replace a folder that holds something else, such as a home folder.

    Args:
        folder: folder that a command is to write.
        mark: a file of what the command writes.
        begins: how that file begins.

    Raises:
        ConfigError: the folder has files, and is not what the command writes; or it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give the path of a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    file = folder / mark
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as stream:
            if stream.read(len(begins)) == begins:
                return
    raise ConfigError(f"{folder}: has other files than what would replace it; give a new folder")


def load_config(folder: Path) -> tuple[ClipsConfig, dict[str, Any]]:
    """Return the dimensions of the model in a folder, and the content of config.json. No weights are read.

    Raises:
        ConfigError: config.json is missing, unreadable or of another format.
    """
    file = folder / CONFIG_FILE
    config = _read_config(file)
    return from_mapping(ClipsConfig, with_current_names(ClipsConfig, config["model"]), f"{file}: model"), config


def load_weights_folder(folder: Path | str) -> tuple[ClipsModel, dict[str, Any]]:
    """Load the model, on the CPU and in evaluation mode, and the content of config.json.

    Raises:
        ConfigError: the folder or a file is missing, unreadable or of another format, or the weights do not fit.
    """
    folder = Path(folder)
    model_config, config = load_config(folder)
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; export the model again")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ConfigError(f"{file}: cannot be read ({error}); export or download the model again") from None
    with torch.device("meta"):
        model = ClipsModel(model_config)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"{file}: does not match {CONFIG_FILE}: {error}; use both files of one export") from None
    return model.eval(), config


def load_model_folder(folder: Path | str) -> LoadedModel:
    """Load model, image transform and tokenizer from a folder that `save_model` wrote.

    Raises:
        ConfigError: as in `load_weights_folder`, the image configuration or the tokenizer is invalid, or the tokenizer's vocabulary
            is larger than the text tower's.
    """
    # Imported here because it loads torchvision, which `load_weights_folder` does not need.
    from clips_pipeline.data.images.transforms import ImageConfig, eval_image

    folder = Path(folder)
    model, config = load_weights_folder(folder)
    images = from_mapping(
        ImageConfig, with_current_names(ImageConfig, config["images"]), f"{folder / CONFIG_FILE}: images"
    )
    tokenizer = load_tokenizer(folder)
    known = model.config.text.vocab_size
    if tokenizer.vocab_size > known:
        raise ConfigError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces but the text tower {known}; use the tokenizer of this model"
        )
    return LoadedModel(model, partial(eval_image, config=images), tokenizer, config, images)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file() and file.with_name("open_clip_config.json").is_file():
        raise ConfigError(
            f"{file}: no such file; {file.parent} is in open_clip's form, of which `clips-pipeline import {file.parent}` makes a "
            "model folder"
        )
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a model folder, such as data/06_models/clips of a project")
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); export the model again") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ConfigError(f'{file}: not a model of this project (its "format" must be "{FORMAT}")')
    if config.get("version") != VERSION:
        raise ConfigError(
            f"{file}: version {config.get('version')!r} is not supported, this release reads {VERSION}; use a matching release"
        )
    for key in ("model", "images"):
        if not isinstance(config.get(key), dict):
            raise ConfigError(f"{file}: {key}: missing; export the model again")
    return config
