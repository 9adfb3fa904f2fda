"""Compositionality: SugarCrepe's seven subsets and Winoground's three scores, from their published files.

SugarCrepe (Hsieh et al. 2023): an image, its caption, and a caption with one small error; a hit is a higher similarity of the
right caption. Winoground (Thrush et al. 2022): two images and two captions with the same words in different order. As in
retrieval, a tie is not a hit, so a model with constant embeddings scores 0.

Shapes: N pairs, E embedding width.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.evaluation.config import CompositionalityConfig
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, open_image
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, EmbeddingCache
from clips_pipeline.evaluation.metrics.retrieval import TIE_TOLERANCE, FloatArray
from clips_pipeline.evaluation.per_item.items import compositionality_items
from clips_pipeline.evaluation.results import SET_VERSION, ItemRow
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.json_text import parse_json

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")

Embed = Callable[[Iterable[Any]], FloatArray]
Flags = npt.NDArray[np.bool_]


class SugarCrepeEntry(NamedTuple):
    """One entry: its name in the JSON file, the image's file name there and its path, the right and the wrong caption."""

    name: str
    file: str
    image: Path
    right: str
    wrong: str


@dataclass(frozen=True)
class Entries:
    """Entries of the configured sets; images are not opened yet.

    Attributes:
        sugarcrepe: entries by subset; empty if not configured.
        winoground: two images and their captions per entry; empty if not configured.
    """

    sugarcrepe: dict[str, list[SugarCrepeEntry]]
    winoground: list[tuple[Path, Path, str, str]]


@dataclass(frozen=True)
class CompositionalityResult:
    """Results on the sets.

    Attributes:
        metrics: metrics by key.
        chance: chance levels by the same keys.
        rows: one row per entry, with the digest of the set.
    """

    metrics: dict[str, float]
    chance: dict[str, float]
    rows: list[ItemRow]


def read_entries(config: CompositionalityConfig) -> Entries:
    """Read the entries of the configured sets.

    Raises:
        ConfigError: a file or an image is missing, or not in the published format; the message names it and the entry.
    """
    sugarcrepe: dict[str, list[SugarCrepeEntry]] = {}
    if config.sugarcrepe is not None and config.sugarcrepe_images is not None:
        folder, images = Path(config.sugarcrepe), Path(config.sugarcrepe_images)
        sugarcrepe = {subset: _sugarcrepe_entries(folder / f"{subset}.json", images) for subset in SUBSETS}
    return Entries(sugarcrepe, [] if config.winoground is None else _winoground_entries(Path(config.winoground)))


def measure_compositionality(
    embedder: TowerEmbedder, sets: Entries, cache: EmbeddingCache = NO_CACHE
) -> CompositionalityResult:
    """Evaluate the sets that have entries.

    Args:
        embedder: the model.
        sets: entries of the sets.
        cache: embedding cache of this model.

    Raises:
        ConfigError: an image cannot be decoded.
    """
    chance: dict[str, float] = {}
    rows: list[ItemRow] = []

    def images(name: str, paths: Sequence[Path]) -> FloatArray:
        found = cache.load_or_compute(name, lambda: {"embeddings": embedder.images(_open_images(paths))})
        return np.asarray(found["embeddings"])

    def texts(captions: Sequence[str]) -> FloatArray:
        return cache.embed_texts(embedder.texts, captions)

    if sets.sugarcrepe:
        # The digest covers entries and image bytes, since results on other files must not be compared.
        image_of = functools.cache(file_sha256)
        version = _digest(
            [subset, e.name, image_of(e.image), e.right, e.wrong]
            for subset, entries in sets.sugarcrepe.items()
            for e in entries
        )
        for subset, entries in sets.sugarcrepe.items():
            hit_N = sugarcrepe_hits(
                images(f"sugarcrepe {version} {subset}", [entry.image for entry in entries]),
                texts([entry.right for entry in entries]),
                texts([entry.wrong for entry in entries]),
            )
            for entry, right in zip(entries, hit_N.tolist(), strict=True):
                of_entry = {"key": f"{subset}/{entry.name}", "subset": subset, "image": entry.file}
                rows.append({"set": "sugarcrepe", **of_entry, "right": right, SET_VERSION: version})
        chance |= {f"sugarcrepe/{subset}/accuracy": 0.5 for subset in (*sets.sugarcrepe, "mean")}
    if entries_W := sets.winoground:
        version = _digest([file_sha256(first), file_sha256(second), a, b] for first, second, a, b in entries_W)
        text, image = winoground_hits(
            images(f"winoground {version} first", [entry[0] for entry in entries_W]),
            images(f"winoground {version} second", [entry[1] for entry in entries_W]),
            texts([entry[2] for entry in entries_W]),
            texts([entry[3] for entry in entries_W]),
        )
        for number, (text_right, image_right) in enumerate(zip(text.tolist(), image.tolist(), strict=True), start=1):
            right = {"text_right": text_right, "image_right": image_right}
            rows.append({"set": "winoground", "key": str(number), **right, SET_VERSION: version})
        chance |= {
            "winoground/all/text_score": 1 / 4,
            "winoground/all/image_score": 1 / 4,
            "winoground/all/group_score": 1 / 6,
        }
    metrics: dict[str, float] = {}
    for items in compositionality_items(rows).values():
        metrics |= items.values()
    return CompositionalityResult(metrics, chance, rows)


def sugarcrepe_hits(image_NE: FloatArray, right_NE: FloatArray, wrong_NE: FloatArray) -> Flags:
    """Return whether the right caption is more similar to its image than the wrong one, (N,)."""
    return _is_greater(_dot(image_NE, right_NE), _dot(image_NE, wrong_NE))


def winoground_hits(
    first_NE: FloatArray, second_NE: FloatArray, a_NE: FloatArray, b_NE: FloatArray
) -> tuple[Flags, Flags]:
    """Return text and image score of each pair: each image prefers its caption, and each caption its image.

    Args:
        first_NE: embeddings of the first images.
        second_NE: embeddings of the second images.
        a_NE: embeddings of the captions of the first images.
        b_NE: embeddings of the captions of the second images.
    """
    first_a, first_b = _dot(first_NE, a_NE), _dot(first_NE, b_NE)
    second_a, second_b = _dot(second_NE, a_NE), _dot(second_NE, b_NE)
    return (
        _is_greater(first_a, first_b) & _is_greater(second_b, second_a),
        _is_greater(first_a, second_a) & _is_greater(second_b, first_b),
    )


def _dot(a_NE: FloatArray, b_NE: FloatArray) -> FloatArray:
    return np.asarray((a_NE * b_NE).sum(axis=1))


def _is_greater(a_N: FloatArray, b_N: FloatArray) -> Flags:
    return np.asarray(a_N > b_N + TIE_TOLERANCE)


def _digest(entries: Iterable[list[str]]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        # JSON separates the texts unambiguously.
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def _sugarcrepe_entries(path: Path, images: Path) -> list[SugarCrepeEntry]:
    found = []
    for name, entry in _json(path, path.read_text(encoding="utf-8") if path.is_file() else None).items():
        file, right, wrong = _fields(entry, ("filename", "caption", "negative_caption"), f"{path}, entry {name}")
        found.append(SugarCrepeEntry(name, file, _existing(images / file, f"{path}, entry {name}"), right, wrong))
    if not found:
        raise ConfigError(f"{path}: has no entries; use the published file of SugarCrepe")
    return found


def _winoground_entries(folder: Path) -> list[tuple[Path, Path, str, str]]:
    path, found = folder / "examples.jsonl", []
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    # Not `splitlines`: a caption may contain a line separator that JSON does not escape.
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], start=1):
        where = f"{path}, line {number}"
        first, second, a, b = _fields(_json(path, line, where), ("image_0", "image_1", "caption_0", "caption_1"), where)
        files = [_existing(folder / "images" / f"{name}.png", where) for name in (first, second)]
        found.append((files[0], files[1], a, b))
    if text is None or not found:
        raise ConfigError(
            f"{path}: {'no such file' if text is None else 'has no entries'}; use the published file of Winoground"
        )
    return found


def _json(path: Path, text: str | None, where: str | None = None) -> dict[str, Any]:
    if text is None:
        raise ConfigError(f"{path}: no such file; SugarCrepe has one per subset: {', '.join(SUBSETS)}")
    try:
        found = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{where or path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where or path}: expected a JSON object, found {type(found).__name__}")
    return found


def _fields(entry: Any, names: Sequence[str], where: str) -> list[str]:
    values = [entry.get(name) if isinstance(entry, dict) else None for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if not isinstance(value, str) or not value]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    return [str(value) for value in values]


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{where}: image {path} does not exist")
    return path


def _open_images(paths: Iterable[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield open_image(read_image(path))
        except (UndecodableImageError, TooLargeImageError) as error:
            raise ConfigError(f"{path}: cannot be decoded ({error})") from None
