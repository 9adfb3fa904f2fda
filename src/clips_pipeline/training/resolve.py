"""Resolved model and image configuration, facts for the start-up line, and checks before any rank is started."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.prepare.caption_statistics import OTHER_CAPTIONERS
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.models.flops import training_flops
from clips_pipeline.models.sizes import ClipsConfig, resolve_size
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.methods import AUTOREGRESSIVE_METHODS, CAPTIONING_METHODS, CONTRASTIVE_METHODS
from clips_pipeline.training.config import TrainConfig


def model_config(config: TrainConfig, vocab_size: int) -> ClipsConfig:
    """Return the configuration of the model: its size with the changes of this training.

    Args:
        config: the training.
        vocab_size: number of ids of the tokenizer.

    Raises:
        ConfigError: an unknown size, an image size that is no multiple of the patch size, captions longer than the model's
            tables, or a vocabulary larger than the embedding table.
    """
    model, captions = config.model, config.captions
    try:
        size = resolve_size(model.size)
    except ConfigError as error:
        text = str(error)
        # The message about a dimension begins with its key.
        raise ConfigError(f"train.model.size{': ' if isinstance(model.size, str) else '.'}{text}") from None
    if vocab_size > size.text.vocab_size:
        name = model.size if isinstance(model.size, str) else model.size.base
        raise ConfigError(
            f"train.model.size: the tokenizer has {vocab_size} ids, but the embedding table has {size.text.vocab_size}; choose "
            f"another size, or `{{base: {name or 'NAME'}, vocab_size: {vocab_size}}}`, or lower prepare.tokenizer.vocabulary_size"
        )
    captioner = None
    if size.captioner is not None and config.method in CAPTIONING_METHODS:
        captioner = dataclasses.replace(
            size.captioner,
            condition=model.condition,
            queries=captions.target_length,
            inputs="tokens" if config.method in AUTOREGRESSIVE_METHODS else "queries",
        )
    try:
        return dataclasses.replace(
            size,
            vision=dataclasses.replace(size.vision, image_size=model.image_size or size.vision.image_size),
            text=dataclasses.replace(size.text, padding=model.padding, context_length=captions.context_length),
            captioner=captioner,
            embed_dim=size.embed_dim if config.method in CONTRASTIVE_METHODS else size.vision.width,
            contrastive=config.loss.contrastive,
            text_tower=config.method in CONTRASTIVE_METHODS,
        )
    except ConfigError as error:
        raise ConfigError(f"train.model.{error}") from None


def size_name(config: TrainConfig) -> str:
    """Return the name of the model for tables: that of its size, with a + if dimensions were changed."""
    size = config.model.size
    return size if isinstance(size, str) else f"{size.base}+" if size.base else "custom"


def image_config(config: TrainConfig) -> ImageConfig:
    """Return the image configuration at the resolution of the model."""
    size = config.model.image_size or resolve_size(config.model.size).vision.image_size
    return ImageConfig(**vars(config.images), **vars(config.augment), size=size)


def check_training(config: TrainConfig, shards: Path, vocab_size: int) -> None:
    """Refuse a training that cannot work, before any rank is started.

    Raises:
        ConfigError: as `check_model`, the training split is smaller than one batch, or a named captioner has no caption there.
    """
    check_model(config, vocab_size)
    check_captioners(config.captions, shards)
    samples = load_index(shards).split_samples("train")
    if samples < config.batch_size:
        raise ConfigError(
            f"train.batch_size: {config.batch_size} is more than the {samples} training samples in {shards}; lower it"
        )


def check_captioners(captions: CaptionConfig, shards: Path) -> None:
    """Refuse names of captioners that have written no training caption: the web captions would silently replace theirs.

    Raises:
        ConfigError: there is no caption of a named captioner; the message has the names there.
    """
    named = {"captioners": captions.captioners or (), "target_captioner": (captions.target_captioner,)}
    wanted = [(key, name) for key, names in named.items() for name in names if name is not None]
    if not wanted:
        return
    captions_there = load_statistics(shards).splits["train"].captions
    found = captions_there.names
    for key, name in wanted:
        if name not in found and OTHER_CAPTIONERS not in captions_there.captioners:
            raise ConfigError(
                f"train.captions.{key}: {name!r} has written no caption of {shards} (captioners there: "
                f"{', '.join(found) or 'none has a name'}); name one of these, or set it to null"
            )


def check_model(config: TrainConfig, vocab_size: int) -> None:
    """Refuse a model that cannot be built. Needs no data.

    Raises:
        ConfigError: as `model_config`, a progressive resolution that does not fit, or an optimizer that cannot be made.
    """
    model = model_config(config, vocab_size)
    if config.optimizer.name != "adamw":
        # Imported here: it loads torch and timm.
        from clips_pipeline.training.optimizer import check_optimizer

        check_optimizer(config.optimizer)
    if config.progressive is None:
        return
    size, patch, full = config.progressive.first_size, model.vision.patch_size, model.vision.image_size
    if size % patch or size > full:
        raise ConfigError(
            f"train.progressive.first_size: {size} must be a multiple of the patch of {patch} pixels and at most the image size "
            f"of {full}"
        )


def fragment_lengths(config: TrainConfig) -> tuple[int, ...]:
    """Return the ids of the row of each fragment of an image."""
    return (config.captions.context_length,) * (config.captions.positives if config.method == "clips" else 0)


def chance_contrastive_loss(config: TrainConfig) -> float | None:
    """Return the contrastive loss of features without any relation, at the initial scale and bias; None without that loss."""
    if config.method not in CONTRASTIVE_METHODS:
        return None
    if config.loss.contrastive == "softmax":
        return math.log(config.batch_size)
    # All logits are the bias -10: one pair of an image matches, the others do not.
    return math.log1p(math.exp(10.0)) + (config.batch_size - 1) * math.log1p(math.exp(-10.0))


def start_facts(config: TrainConfig, clips: Any, vocab_size: int, shards: str) -> dict[str, Any]:
    """Return the facts of the `start` event, which the start-up line shows."""
    model = model_config(config, vocab_size)
    captions = config.captions
    context, target = captions.context_length, captions.target_length
    samples = load_index(Path(shards)).split_samples("train")
    return {
        "size": size_name(config),
        "method": config.method,
        "contrastive": config.loss.contrastive,
        "samples": config.samples,
        "train_samples": samples,
        "epochs": config.samples / samples,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "parameters": sum(parameter.numel() for parameter in clips.parameters()),
        "training_flops_per_sample": training_flops(
            model, context, fragment_lengths(config), target, config.model.image_tokens_kept
        ),
        "chance_contrastive_loss": chance_contrastive_loss(config),
        "chance_caption_loss": None if model.captioner is None else math.log(vocab_size),
    }
