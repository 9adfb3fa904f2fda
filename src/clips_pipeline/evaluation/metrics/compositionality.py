"""Compositionality: SugarCrepe, SugarCrepe++, Winoground and MMVP-VLM, from the entries of `pair_files`.

SugarCrepe (Hsieh et al. 2023): an image, its caption, and a caption with one small error; a hit is a higher similarity of the
right caption. SugarCrepe++ (Dumpala et al. 2024): two right captions in other words; image to text, both are more similar to the
image than the wrong one; text to text, they are more similar to each other than each to the wrong one. Winoground (Thrush et al.
2022): two images and two captions with the same words in different order. MMVP-VLM (Tong et al. 2024): two images and a text of
each; a hit is a pair in which each text is more similar to its image. As in retrieval, a tie is not a hit, so a model with
constant embeddings scores 0.

Shapes: N pairs, E embedding width.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, open_image
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, EmbeddingCache
from clips_pipeline.evaluation.metrics.pair_files import Entries, PatternPair, SugarCrepeEntry, TripletEntry
from clips_pipeline.evaluation.metrics.retrieval import TIE_TOLERANCE, FloatArray
from clips_pipeline.evaluation.per_item.items import compositionality_items
from clips_pipeline.evaluation.results import SET_VERSION, ItemRow
from clips_pipeline.io.digests import file_sha256

Flags = npt.NDArray[np.bool_]


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
    cached = _CachedTowers(embedder, cache)
    rows: list[ItemRow] = []
    chance: dict[str, float] = {}
    if sets.sugarcrepe:
        rows += _sugarcrepe_rows(cached, sets.sugarcrepe)
        chance |= {f"sugarcrepe/{subset}/accuracy": 0.5 for subset in (*sets.sugarcrepe, "mean")}
    if sets.sugarcrepe_pp:
        rows += _triplet_rows(cached, sets.sugarcrepe_pp)
        # Three texts, of which the wrong one is the last, or three pairs of texts, of which the right one is the first.
        chance |= {
            f"sugarcrepe_pp/{subset}/{task}_accuracy": 1 / 3
            for subset in (*sets.sugarcrepe_pp, "mean")
            for task in ("image_to_text", "text_to_text")
        }
    if sets.winoground:
        rows += _winoground_rows(cached, sets.winoground)
        chance |= {
            "winoground/all/text_score": 1 / 4,
            "winoground/all/image_score": 1 / 4,
            "winoground/all/group_score": 1 / 6,
        }
    if sets.mmvp_vlm:
        rows += _pattern_rows(cached, sets.mmvp_vlm)
        patterns = dict.fromkeys(pair.pattern for pair in sets.mmvp_vlm)
        chance |= {f"mmvp_vlm/{pattern}/accuracy": 1 / 4 for pattern in (*patterns, "mean")}
    metrics: dict[str, float] = {}
    for items in compositionality_items(rows).values():
        metrics |= items.values()
    return CompositionalityResult(metrics, chance, rows)


@dataclass(frozen=True)
class _CachedTowers:
    embedder: TowerEmbedder
    cache: EmbeddingCache

    def images(self, name: str, paths: Sequence[Path]) -> FloatArray:
        found = self.cache.load_or_compute(name, lambda: {"embeddings": self.embedder.images(_open_images(paths))})
        return np.asarray(found["embeddings"])

    def texts(self, captions: Sequence[str]) -> FloatArray:
        return self.cache.embed_texts(self.embedder.texts, captions)


# The digest of a set covers entries and image bytes, since results on other files must not be compared.


def _sugarcrepe_rows(cached: _CachedTowers, sets: Mapping[str, Sequence[SugarCrepeEntry]]) -> Iterator[ItemRow]:
    image_of = functools.cache(file_sha256)
    version = _digest(
        [subset, e.name, image_of(e.image), e.right, e.wrong] for subset, entries in sets.items() for e in entries
    )
    for subset, entries in sets.items():
        hit_N = sugarcrepe_hits(
            cached.images(f"sugarcrepe {version} {subset}", [entry.image for entry in entries]),
            cached.texts([entry.right for entry in entries]),
            cached.texts([entry.wrong for entry in entries]),
        )
        for entry, right in zip(entries, hit_N.tolist(), strict=True):
            of_entry = {"key": f"{subset}/{entry.name}", "subset": subset, "image": entry.file}
            yield {"set": "sugarcrepe", **of_entry, "right": right, SET_VERSION: version}


def _triplet_rows(cached: _CachedTowers, sets: Mapping[str, Sequence[TripletEntry]]) -> Iterator[ItemRow]:
    image_of = functools.cache(file_sha256)
    version = _digest(
        [subset, e.name, image_of(e.image), e.right, e.also_right, e.wrong]
        for subset, entries in sets.items()
        for e in entries
    )
    for subset, entries in sets.items():
        image, text = triplet_hits(
            cached.images(f"sugarcrepe_pp {version} {subset}", [entry.image for entry in entries]),
            cached.texts([entry.right for entry in entries]),
            cached.texts([entry.also_right for entry in entries]),
            cached.texts([entry.wrong for entry in entries]),
        )
        for entry, image_right, text_right in zip(entries, image.tolist(), text.tolist(), strict=True):
            of_entry = {"key": f"{subset}/{entry.name}", "subset": subset, "image": entry.file}
            right = {"image_to_text_right": image_right, "text_to_text_right": text_right}
            yield {"set": "sugarcrepe_pp", **of_entry, **right, SET_VERSION: version}


def _winoground_rows(cached: _CachedTowers, entries: Sequence[tuple[Path, Path, str, str]]) -> Iterator[ItemRow]:
    version = _digest([file_sha256(first), file_sha256(second), a, b] for first, second, a, b in entries)
    text, image = winoground_hits(
        cached.images(f"winoground {version} first", [entry[0] for entry in entries]),
        cached.images(f"winoground {version} second", [entry[1] for entry in entries]),
        cached.texts([entry[2] for entry in entries]),
        cached.texts([entry[3] for entry in entries]),
    )
    for number, (text_right, image_right) in enumerate(zip(text.tolist(), image.tolist(), strict=True), start=1):
        right = {"text_right": text_right, "image_right": image_right}
        yield {"set": "winoground", "key": str(number), **right, SET_VERSION: version}


def _pattern_rows(cached: _CachedTowers, pairs: Sequence[PatternPair]) -> Iterator[ItemRow]:
    version = _digest(
        [pair.pattern, file_sha256(pair.first), file_sha256(pair.second), pair.first_text, pair.second_text]
        for pair in pairs
    )
    # As in its evaluation, each text chooses an image: Winoground's image score.
    _, right_N = winoground_hits(
        cached.images(f"mmvp_vlm {version} first", [pair.first for pair in pairs]),
        cached.images(f"mmvp_vlm {version} second", [pair.second for pair in pairs]),
        cached.texts([pair.first_text for pair in pairs]),
        cached.texts([pair.second_text for pair in pairs]),
    )
    for pair, right in zip(pairs, right_N.tolist(), strict=True):
        yield {"set": "mmvp_vlm", "key": pair.name, "subset": pair.pattern, "right": right, SET_VERSION: version}


def sugarcrepe_hits(image_NE: FloatArray, right_NE: FloatArray, wrong_NE: FloatArray) -> Flags:
    """Return whether the right caption is more similar to its image than the wrong one, (N,)."""
    return _is_greater(_dot(image_NE, right_NE), _dot(image_NE, wrong_NE))


def triplet_hits(
    image_NE: FloatArray, right_NE: FloatArray, also_right_NE: FloatArray, wrong_NE: FloatArray
) -> tuple[Flags, Flags]:
    """Return SugarCrepe++'s image-to-text and text-to-text hits of each entry, (N,) each.

    Image to text: both right captions are more similar to the image than the wrong one. Text to text: the right captions are more
    similar to each other than either is to the wrong one.
    """
    wrong_N, between_N = _dot(image_NE, wrong_NE), _dot(right_NE, also_right_NE)
    return (
        _is_greater(_dot(image_NE, right_NE), wrong_N) & _is_greater(_dot(image_NE, also_right_NE), wrong_N),
        _is_greater(between_N, _dot(right_NE, wrong_NE)) & _is_greater(between_N, _dot(also_right_NE, wrong_NE)),
    )


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


def _open_images(paths: Iterable[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield open_image(read_image(path))
        except (UndecodableImageError, TooLargeImageError) as error:
            raise ConfigError(f"{path}: cannot be decoded ({error})") from None
