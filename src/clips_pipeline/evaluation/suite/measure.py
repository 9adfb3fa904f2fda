"""One model on one set: per-item results, metrics and counts, kept in a file so that a killed run goes on behind it."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline import formats
from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_records
from clips_pipeline.evaluation.inference.embed import TowerEmbedder
from clips_pipeline.evaluation.inference.embedding_cache import EmbeddingCache
from clips_pipeline.evaluation.metrics.compositionality import measure_compositionality
from clips_pipeline.evaluation.per_item.items import ItemResults, compositionality_items, items_from_rows
from clips_pipeline.evaluation.results import MODEL, SET_VERSION, ItemRow, check_finite
from clips_pipeline.evaluation.suite.config import SetConfig
from clips_pipeline.evaluation.suite.image_set import CountedRecords, ImageSet
from clips_pipeline.evaluation.suite.sets import OpenSet, check_counts
from clips_pipeline.interop.folder import Towers
from clips_pipeline.io.atomic import write_text
from clips_pipeline.io.digests import json_sha256

log = logging.getLogger(__name__)

FP32, BF16 = "fp32", "bf16"


@dataclass(frozen=True)
class SetResult:
    """Results of one model on one set.

    Attributes:
        metrics: metrics by key.
        chance: chance levels by the same keys.
        rows: per-item results, one row per image or entry.
        images, captions: numbers of images and captions; of a compositionality set, images and entries.
        skipped: samples that were left out, by reason.
    """

    metrics: dict[str, float]
    chance: dict[str, float]
    rows: list[ItemRow]
    images: int
    captions: int
    skipped: dict[str, int]

    def items(self) -> ItemResults:
        """Return the per-item results for intervals and comparisons."""
        if "set" in self.rows[0]:
            return next(iter(compositionality_items(self.rows).values()))
        return items_from_rows(self.rows)

    def save(self, path: Path) -> None:
        """Write the result; its file exists only when it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(self)), sync=True)

    @classmethod
    def load(cls, path: Path) -> "SetResult":
        """Read a result.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: damaged ({error}); delete it and run the same command again") from None


def result_fingerprint(identity: str, config: SetConfig, model: str, device: str, precision: str) -> str:
    """Return the digest of all that a result depends on.

    Args:
        identity: `OpenSet.identity`.
        config: configuration of the set; its place, expected counts and description do not count.
        model: digest of the model's files.
        device: type of the device.
        precision: `fp32` or `bf16`.
    """
    facts = [config.kind, config.split, config.classes, identity, model, device, precision]
    return json_sha256([*facts, formats.EMBEDDINGS, formats.EVALUATION])


def measure_set(
    opened: OpenSet, embedder: TowerEmbedder, cache: EmbeddingCache, model: str, versions: Path
) -> SetResult:
    """Evaluate a model on a set.

    Args:
        opened: the set.
        embedder: the model.
        cache: embedding cache of this model; its samples are those of the set.
        model: digest of the model's files.
        versions: folder of the digests of sets whose content has been read.

    Raises:
        ConfigError: an image cannot be read or decoded, a count differs from the published one, or a metric is not finite; the
            message begins with the set's key.
    """
    try:
        if opened.entries is not None:
            found = measure_compositionality(embedder, opened.entries, cache)
            entries = opened.entries
            result = SetResult(found.metrics, found.chance, found.rows, len(entries.images), entries.count, {})
        else:
            assert opened.images is not None  # noqa: S101
            result = _measure_images(opened, opened.images, embedder, cache, versions)
        check_finite(result.metrics)
    except ConfigError as error:
        message = str(error)
        key = f"suite.sets.{opened.name}: "
        raise ConfigError(message if message.startswith(key) else f"{key}{message}") from None
    for row in result.rows:
        row[MODEL] = model
    return result


def _measure_images(
    opened: OpenSet, images: ImageSet, embedder: TowerEmbedder, cache: EmbeddingCache, versions: Path
) -> SetResult:
    counted = CountedRecords(images)
    config = EvaluationConfig(set_name=opened.name, captioning=False, examples=0)
    result = evaluate_records(embedder, counted.read, images.classes, config, cache)
    version = versions / f"{images.identity}.json"
    facts = _load_version(version)
    if facts is None:
        if not counted.digest:  # the embeddings were cached, but not the digest
            for _ in counted.read():
                pass
        facts = {"digest": counted.digest, "captions": counted.captions, "skipped": dict(counted.skipped)}
        versions.mkdir(parents=True, exist_ok=True)
        write_text(version, json.dumps(facts))
    skipped = dict(facts["skipped"])
    told = f" (skipped: {', '.join(f'{reason} {count}' for reason, count in skipped.items())})" if skipped else ""
    captions = None if images.classes is not None else facts["captions"]
    check_counts(opened.name, opened.config, len(result.per_item), captions, skipped=told)
    for row in result.per_item:
        row[SET_VERSION] = facts["digest"]
    chance = result.report_data.chance
    return SetResult(result.metrics, chance, result.per_item, len(result.per_item), captions or 0, skipped)


def _load_version(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"digest", "captions", "skipped"} <= set(found) else None


def in_precision(towers: Towers, precision: str, device: torch.device) -> Towers:
    """Return towers that compute in bfloat16 under autocast, as a mixed-precision training does; with `fp32`, as they are.

    Embeddings are normalized again in float32, so that their length does not have bfloat16's error.

    Args:
        towers: the model.
        precision: `fp32` or `bf16`.
        device: device that it will run on.
    """
    if precision == FP32:
        return towers

    def image(images_BCHW: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            found = towers.encode_image(images_BCHW)
        return functional.normalize(found.float(), dim=-1)

    def text(rows_BL: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            found = towers.encode_text(rows_BL)
        return functional.normalize(found.float(), dim=-1)

    return replace(towers, encode_image=image, encode_text=text)
