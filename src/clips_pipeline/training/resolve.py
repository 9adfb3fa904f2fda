"""From configuration to the exact model, images and start-up facts; checks that need no training process."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.models.flops import training_flops
from clips_pipeline.models.sizes import SIZES, ClipsConfig
from clips_pipeline.shards.index import load_index
from clips_pipeline.shards.transforms import ImageConfig
from clips_pipeline.text.methods import CAPTIONING
from clips_pipeline.training.config import TrainConfig


def model_config(config: TrainConfig, vocab_size: int) -> ClipsConfig:
    """The named size with the run's changes.

    Args:
        config: the training.
        vocab_size: ids the tokenizer uses.

    Raises:
        ConfigError: no such size, an image size the patch does not divide, captions longer than the model's tables, or
            a vocabulary larger than the embedding table.
    """
    model, captions = config.model, config.captions
    if model.size not in SIZES:
        raise ConfigError(f"train.model.size: {model.size!r} is unknown; sizes are {', '.join(SIZES)}")
    size = SIZES[model.size]
    if vocab_size > size.text.vocab_size:
        raise ConfigError(
            f"train.model.size: the tokenizer uses {vocab_size} ids but {model.size} has a table of "
            f"{size.text.vocab_size}; choose a larger size or lower prepare.tokenizer.vocabulary_size"
        )
    captioner = None
    if size.captioner is not None and config.method in CAPTIONING:
        captioner = dataclasses.replace(
            size.captioner,
            condition=model.condition,
            queries=captions.target_length,
            inputs="tokens" if config.method == "coca" else "queries",
        )
    try:
        return dataclasses.replace(
            size,
            vision=dataclasses.replace(size.vision, image_size=model.image_size or size.vision.image_size),
            text=dataclasses.replace(size.text, padding=model.padding, context_length=captions.context_length),
            captioner=captioner,
        )
    except ConfigError as error:
        raise ConfigError(f"train.model: {error}") from None


def image_config(config: TrainConfig) -> ImageConfig:
    """How training images are cropped and coloured, at the model's resolution."""
    size = config.model.image_size or SIZES[config.model.size].vision.image_size
    augment = config.augment
    return ImageConfig(
        size=size,
        crop_area=augment.crop_area,
        crop_aspect=augment.crop_aspect,
        color_jitter=augment.color_jitter,
        color_jitter_probability=augment.color_jitter_probability,
        grayscale_probability=augment.grayscale_probability,
    )


def check(config: TrainConfig, shards: Path, vocab_size: int) -> None:
    """Refuse what cannot train, before any process starts.

    Raises:
        ConfigError: as `model_config`, or the training split is smaller than one batch,
            or a progressive resolution that does not fit.
    """
    model = model_config(config, vocab_size)
    _check_progressive(config, model)
    samples = load_index(shards).split_samples("train")
    if samples < config.batch_size:
        raise ConfigError(
            f"train.batch_size: {config.batch_size} is more than the {samples} training samples in {shards}; lower it"
        )


def _check_progressive(config: TrainConfig, model: ClipsConfig) -> None:
    if config.progressive is None:
        return
    size, patch, full = config.progressive.first_size, model.vision.patch_size, model.vision.image_size
    if size % patch or size > full:
        raise ConfigError(
            f"train.progressive.first_size: {size} must be a multiple of the patch of {patch} pixels and at most the image size "
            f"of {full}"
        )


def start_facts(config: TrainConfig, clips: Any, vocab_size: int, shards: str) -> dict[str, Any]:
    """What the start-up line states."""
    model = model_config(config, vocab_size)
    captions = config.captions
    context, target = captions.context_length, captions.target_length
    samples = load_index(Path(shards)).split_samples("train")
    return {
        "size": config.model.size,
        "method": config.method,
        "samples": config.samples,
        "train_samples": samples,
        "epochs": config.samples / samples,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "parameters": sum(parameter.numel() for parameter in clips.parameters()),
        "training_flops_per_sample": training_flops(model, context, context if config.method == "clips" else 0, target),
        "chance_contrastive_loss": math.log(config.batch_size),
        "chance_caption_loss": None if model.captioner is None else math.log(vocab_size),
    }
