"""A trained model as a folder: weights, configuration and tokenizer; all that is needed to use it.

model.safetensors        every weight, the captioner's too, under this project's names
config.json              format, version, the model's configuration, how images are prepared
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
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from PIL import Image

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FORMAT = "clips-pipeline"
VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model with what turns files and texts into its inputs.

    Attributes:
        model: on the CPU, in evaluation mode.
        image_transform: a picture to the normalised (3, H, W) tensor that `encode_image` takes in batches.
        tokenizer: the one it was trained with; rows are `model.config.text.context_length` long.
        config: what config.json holds.
    """

    model: ClipsModel
    image_transform: "Callable[[Image.Image], Tensor]"
    tokenizer: Tokenizer
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Towers:
    """Two towers, of whatever model, with all they need to read files and texts.

    Attributes:
        module: with all weights.
        encode_image: (B, C, H, W) to (B, E), of length one.
        encode_text: rows (B, L) to (B, E), of length one.
        image_transform: a picture to its (C, H, W), without randomness.
        text_rows: texts to their rows, (B, L), by the tokenizer the model was trained with.
    """

    module: torch.nn.Module
    encode_image: Callable[[Tensor], Tensor]
    encode_text: Callable[[Tensor], Tensor]
    image_transform: "Callable[[Image.Image], Tensor]"
    text_rows: Callable[[Sequence[str]], Tensor]


def save_model(model: ClipsModel, tokenizer_dir: Path, image_mapping: Mapping[str, Any], out_dir: Path) -> Path:
    """Write the folder aside and rename it into place, so that no reader ever finds half a model.

    Args:
        model: on any device.
        tokenizer_dir: a saved tokenizer; its files are copied.
        image_mapping: `data.images.transforms.ImageConfig` as plain values.
        out_dir: replaced if it exists.

    Returns:
        `out_dir`.

    Raises:
        ConfigError: `tokenizer_dir` is no folder, or holds a file with one of our own names.
    """
    tokenizer_dir, out_dir = Path(tokenizer_dir), Path(out_dir)
    if not tokenizer_dir.is_dir():
        raise ConfigError(f"{tokenizer_dir}: no tokenizer folder there; give the one that `prepare` wrote")
    with replace_folder(out_dir) as folder:
        for file in sorted(tokenizer_dir.iterdir()):
            if file.name in (WEIGHTS_FILE, CONFIG_FILE):
                raise ConfigError(f"{file}: a tokenizer folder must not hold {file.name}; move that file away")
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "model": to_mapping(model.config),
            "images": dict(image_mapping),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        # safetensors writes it for the owner alone; like the other files it follows the umask.
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    return out_dir


def load_weights_folder(folder: Path | str) -> tuple[ClipsModel, dict[str, Any]]:
    """The model alone, on the CPU and in evaluation mode, and the content of config.json.

    Raises:
        ConfigError: no such folder, a file missing or unreadable, another format, or weights that do not fit.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    model_config = from_mapping(
        ClipsConfig, with_current_names(ClipsConfig, config["model"]), f"{folder / CONFIG_FILE}: model"
    )
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise ConfigError(f"{file}: not there; export the model again")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ConfigError(f"{file}: cannot be read ({error}); export or fetch the model again") from None
    with torch.device("meta"):
        model = ClipsModel(model_config)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"{file}: does not fit {CONFIG_FILE}: {error}; both must come from one export") from None
    return model.eval(), config


def load_model_folder(folder: Path | str) -> LoadedModel:
    """Model, image transform and tokenizer from a folder that `save_model` wrote.

    Raises:
        ConfigError: as `load_weights_folder`, an image configuration of another kind, or no usable tokenizer.
    """
    # Here, because it loads torchvision, which weights alone do not need.
    from clips_pipeline.data.images.transforms import ImageConfig, eval_image

    folder = Path(folder)
    model, config = load_weights_folder(folder)
    images = from_mapping(
        ImageConfig, with_current_names(ImageConfig, config["images"]), f"{folder / CONFIG_FILE}: images"
    )
    return LoadedModel(model, partial(eval_image, config=images), load_tokenizer(folder), config)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(
            f"{file}: not there; give a folder that holds an exported model (default data/06_models/clips)"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}); export the model again") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ConfigError(f'{file}: not a model of this project (its "format" must be "{FORMAT}")')
    if config.get("version") != VERSION:
        raise ConfigError(
            f"{file}: version {config.get('version')!r}, this release reads {VERSION}; use a matching release"
        )
    for key in ("model", "images"):
        if not isinstance(config.get(key), dict):
            raise ConfigError(f"{file}: {key}: missing; export the model again")
    return config
