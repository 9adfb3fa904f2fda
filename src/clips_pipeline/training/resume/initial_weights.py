"""What a training starts from: a whole model of an earlier stage, towers of open_clip checkpoints, and frozen parts.

The process that Kedro runs in keeps a copy of the model under a name made of its content (`keep`), so that a resumed training
finds what it began with, whatever has become of the original. The worker loads it (`fill`); of these only `fill` loads torch.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from clips_pipeline.config import ConfigError
from clips_pipeline.io.atomic import replace_file
from clips_pipeline.training.config import ModelConfig

if TYPE_CHECKING:
    from clips_pipeline.models.clips import ClipsModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def keep_copy(folder: Path, store: Path, tokenizer: Path) -> Path:
    """The model in `folder`, kept under `store` as a folder named by its weights.

    Args:
        folder: an exported model.
        store: where copies are kept; files are linked where the file system allows.
        tokenizer: of the new training.

    Raises:
        ConfigError: no exported model there, or it was trained with another tokenizer.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ConfigError(
                f"train.model.initial_weights: {folder / name} does not exist; give the folder of an exported model, "
                "models:/NAME@ALIAS, or the id of an MLflow run"
            )
    for file in sorted(tokenizer.iterdir()):
        theirs = folder / file.name
        if file.is_file() and theirs.is_file() and theirs.read_bytes() != file.read_bytes():
            raise ConfigError(
                f"train.model.initial_weights: {theirs} is not {file}: the model was trained with another tokenizer, and its "
                "embeddings would belong to other words; prepare the data with that tokenizer (prepare.tokenizer)"
            )
    with (folder / WEIGHTS).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    kept = store / digest
    if not (kept / CONFIG).is_file():
        kept.mkdir(parents=True, exist_ok=True)
        # The configuration last: it says that all is there.
        for name in (WEIGHTS, CONFIG):
            _place(folder / name, kept / name)
    return kept


def _place(source: Path, target: Path) -> None:
    with replace_file(target) as temporary:
        try:
            # A model folder is replaced as a whole and its files are never written again, so a link is as good as a copy.
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def load_initial_weights(clips: "ClipsModel", config: ModelConfig, freeze: Iterable[str] = ()) -> None:
    """Put the weights a training starts from into `clips`, and freeze what is not to be trained.

    Position tables follow the resolution by themselves: only weights travel.

    Raises:
        ConfigError: a file is missing, cannot be read, or does not fit the model.
    """
    if config.initial_weights:
        _load_model(clips, Path(config.initial_weights))
    for key, part in (("vision_weights", "vision"), ("text_weights", "text")):
        path = getattr(config, key)
        if path:
            _load_tower(clips, part, Path(path), f"train.model.{key}")
    for part in freeze:
        getattr(clips, part).requires_grad_(False)


def _load_model(clips: "ClipsModel", folder: Path) -> None:
    weights = _read(folder / WEIGHTS, "train.model.initial_weights")
    try:
        clips.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"train.model.initial_weights: {folder / WEIGHTS} does not fit train.model.size and train.method: {error}"
        ) from None


def _load_tower(clips: "ClipsModel", part: str, path: Path, key: str) -> None:
    import torch

    from clips_pipeline.interop.open_clip import from_state_dict

    state: Any = _read(path, key)
    # Training checkpoints of open_clip hold the weights one level down, and DDP's name before each.
    state = state.get("state_dict", state)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    vision = clips.config.vision
    with torch.random.fork_rng(devices=[]):
        try:
            found = from_state_dict(
                state, vision.image_size, vision_heads=vision.heads, text_heads=clips.config.text.heads
            )
        except ConfigError as error:
            raise ConfigError(f"{key}: {path}: {error}") from None
    if part == "vision" and found.config.vision.positions == "stored":
        raise ConfigError(
            f"{key}: {path}: its position table was trained further, and this training computes positions for its resolution; "
            "use a checkpoint with the fixed sine-cosine table"
        )
    try:
        getattr(clips, part).load_state_dict(getattr(found, part).state_dict())
    except RuntimeError as error:
        raise ConfigError(f"{key}: {path} does not fit train.model.size: {error}") from None


def _read(path: Path, key: str) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"{key}: {path} does not exist; give the file of a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Never more than tensors: a foreign file could run anything otherwise.
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise ConfigError(f"{key}: {path} cannot be read as tensors ({error}); export or fetch it again") from None
