"""Initial weights of a training: the model of an earlier stage, towers of open_clip checkpoints; and frozen parts.

The Kedro process copies the model to a folder named by its content (`keep_copy`), so that a resumed training finds the same
weights even if the original has changed. Each rank loads them (`load_initial_weights`); only that function imports torch.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clips_pipeline.config import ConfigError
from clips_pipeline.io.atomic import link_or_copy, replace_file
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.training.config import ModelConfig

if TYPE_CHECKING:
    from clips_pipeline.models.clips import ClipsModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_CAPTIONER, _SCALE, _BIAS = "captioner.", "logit_scale", "logit_bias"


def keep_copy(folder: Path, store: Path, tokenizer: Path) -> Path:
    """Copy the model in `folder` to a folder under `store`, named by the digest of its weights, and return that.

    Args:
        folder: an exported model.
        store: folder of all copies; files are hard links where the file system allows it.
        tokenizer: tokenizer folder of the new training.

    Raises:
        ConfigError: `folder` holds no exported model, or it was trained with another tokenizer.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ConfigError(
                f"train.model.initial_weights: {folder / name} does not exist; give the folder of an exported model, "
                "models:/NAME@ALIAS, or the id of an MLflow run"
            )
    for file in sorted(tokenizer.iterdir()):
        other = folder / file.name
        if file.is_file() and other.is_file() and other.read_bytes() != file.read_bytes():
            raise ConfigError(
                f"train.model.initial_weights: {other} differs from {file}: the model was trained with another tokenizer, so its "
                "token embeddings belong to other words; prepare the data with that tokenizer (prepare.tokenizer)"
            )
    copy = store / file_sha256(folder / WEIGHTS)[:16]
    if not (copy / CONFIG).is_file():
        copy.mkdir(parents=True, exist_ok=True)
        # The configuration is copied last: its presence marks a complete copy.
        for name in (WEIGHTS, CONFIG):
            # The files of a model folder are never modified in place, so a link is as good as a copy.
            with replace_file(copy / name) as temporary:
                link_or_copy(folder / name, temporary)
    return copy


def load_initial_weights(clips: "ClipsModel", config: ModelConfig, freeze: Iterable[str] = ()) -> None:
    """Load the initial weights into `clips`, and freeze the parts that are not trained.

    Only weights are loaded. Position tables are computed for the resolution of `clips`. A captioner that the initial model
    lacks keeps its weights; scale and bias keep theirs if the initial model had the other contrastive loss.

    Args:
        clips: the model; changed in place.
        config: where the weights are.
        freeze: names of the parts to freeze.

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
    from clips_pipeline.interop.foreign_weights import load_weights_file

    weights = load_weights_file(folder / WEIGHTS, "train.model.initial_weights")
    own = clips.state_dict()
    if not any(name.startswith(_CAPTIONER) for name in weights):
        # Imported weights, and those of the methods clip and mixture: the captioner starts as in a training from scratch.
        weights |= {name: tensor for name, tensor in own.items() if name.startswith(_CAPTIONER)}
    if (_BIAS in weights) != (_BIAS in own):
        # The scale of one contrastive loss is none for the other, so that scale and bias start as in a training from scratch.
        weights = {name: tensor for name, tensor in weights.items() if name != _BIAS}
        weights |= {name: own[name] for name in (_SCALE, _BIAS) if name in own}
    try:
        clips.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"train.model.initial_weights: {folder / WEIGHTS} does not fit train.model.size and train.method: {error}"
        ) from None


def _load_tower(clips: "ClipsModel", part: str, path: Path, key: str) -> None:
    import torch

    from clips_pipeline.interop.foreign_weights import load_weights_file
    from clips_pipeline.interop.open_clip import from_state_dict

    # Training checkpoints of open_clip have DDP's prefix in each name.
    state = {name.removeprefix("module."): tensor for name, tensor in load_weights_file(path, key).items()}
    vision = clips.config.vision
    with torch.random.fork_rng(devices=[]):
        try:
            source = from_state_dict(
                state, vision.image_size, vision_heads=vision.heads, text_heads=clips.config.text.heads
            )
        except ConfigError as error:
            raise ConfigError(f"{key}: {path}: {error}") from None
    if part == "vision" and source.config.vision.positions == "stored":
        raise ConfigError(
            f"{key}: {path}: its position table was trained, but this training computes fixed positions for its resolution; "
            "use a checkpoint with the fixed sine-cosine table"
        )
    tower = getattr(clips, part)
    weights = getattr(source, part).state_dict()
    if clips.text is None:
        # A vision tower alone has neither final norm nor projection.
        weights = {name: tensor for name, tensor in weights.items() if name in tower.state_dict()}
    try:
        tower.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{key}: {path} does not fit train.model.size: {error}") from None
