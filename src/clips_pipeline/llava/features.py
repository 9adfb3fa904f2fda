"""The frozen vision tower and the patches that it gives to the language model, computed once for all images of a probe.

Shapes: N images, B batch, P patches, D width of the tower.
"""

import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.scenes.source import ScenesConfig, scene_sample
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.evaluation.inference.embed import iterate_batches, open_image
from clips_pipeline.interop.export.transformers_form import write_transformers
from clips_pipeline.interop.folder import LoadedModel, load_model_folder
from clips_pipeline.models.clips import ClipsModel

_BATCH = 128


def require_transformers() -> None:
    """Check that Transformers is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("transformers") is None:
        raise ConfigError(
            "llava_probe needs Transformers; install it with `pip install 'clips-pipeline[transformers]'`"
        )


def load_tower(folder: Path, seed: int | None) -> tuple[Any, LoadedModel]:
    """Load the vision tower of a trained model as `ViTModel` of Transformers, from its export.

    Args:
        folder: model folder of this project.
        seed: not None replaces all weights by initial ones of this seed: an untrained tower of the same size.

    Returns:
        the tower, frozen, and the model that it is from.

    Raises:
        ConfigError: the folder is missing or damaged.
    """
    from transformers import ViTModel

    loaded = load_model_folder(folder)
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = ClipsModel(loaded.model.config).eval()
        loaded = LoadedModel(untrained, loaded.image_transform, loaded.tokenizer, loaded.config, loaded.images)
    with tempfile.TemporaryDirectory() as temporary:
        write_transformers(loaded, Path(temporary))
        tower = ViTModel.from_pretrained(Path(temporary) / "vision", add_pooling_layer=False)
    return tower.eval().requires_grad_(False), loaded


def check_layer(layer: int, depth: int) -> None:
    """Check that a tower has a layer.

    Args:
        layer: as `llava_probe.vision_layer`.
        depth: blocks of the tower; there is one more layer, the input of the first block.

    Raises:
        ConfigError: it has not.
    """
    if not -depth - 1 <= layer <= depth:
        raise ConfigError(
            f"llava_probe.vision_layer: {layer} does not exist, the tower has {depth} blocks; use {-depth - 1} to {depth}"
        )


@torch.inference_mode()
def patch_features(tower: Any, loaded: LoadedModel, records: Iterable[Record], layer: int) -> Tensor:
    """Return the patches (N, P, D) of a layer, without the CLS token, in the order of the images.

    Raises:
        ConfigError: the layer does not exist.
        UndecodableImageError: an image cannot be decoded.
    """
    check_layer(layer, loaded.model.config.vision.depth)
    found = []
    for batch in iterate_batches(records, _BATCH):
        images_BCHW = torch.stack([loaded.image_transform(open_image(one.image, one.limits)) for one in batch])
        states = tower(images_BCHW, output_hidden_states=True).hidden_states
        # Clone, because an inference tensor cannot take part in training.
        found.append(states[layer][:, 1:])
    return torch.cat(found)


def read_scenes(shards: Path, split: str, scenes: ScenesConfig, remote: ShardCache | None) -> list[Record]:
    """Return the samples of a split, after a check that they show the scenes that the questions are about.

    Raises:
        ConfigError: they are samples of other scenes.
    """
    records = list(eval_samples(shards, split, remote=remote))
    total = getattr(scenes, split)
    for index in (0, total // 2, total - 1):
        expected = scene_sample(scenes, split, index)
        own = records[index] if len(records) == total else None
        if own is None or own.key != f"{split}-{index:07d}" or own.synthetic_caption != expected.synthetic.text:
            raise ConfigError(
                f"{shards}: split '{split}' does not contain the scenes of prepare.source.scenes; run `kedro run --pipelines "
                "prepare` with these parameters"
            )
    return records
