"""Does a model read who does what to whom? SugarCrepe's seven subsets and Winoground's three scores, from their published files.

SugarCrepe (Hsieh et al. 2023): an image, its caption, and one that is wrong in a small thing; a hit is the right caption being
nearer. Winoground (Thrush et al. 2022): two images and two captions of the same words. As in retrieval, what is equally near is
no hit: a model that answers the same to everything scores 0.

Legend of suffixes: N pairs, E embedding width.
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
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.evaluation.config import CompositionalityConfig
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, open_image
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, EmbeddingCache
from clips_pipeline.evaluation.metrics.retrieval import TIE_TOLERANCE, FloatArray
from clips_pipeline.evaluation.per_item.items import compositionality_items
from clips_pipeline.evaluation.results import SET_VERSION, ItemRow

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")

Embed = Callable[[Iterable[Any]], FloatArray]
Flags = npt.NDArray[np.bool_]


class SugarCrepeEntry(NamedTuple):
    """One entry: its name in the file, the image's name there and its file, the right and the wrong caption."""

    name: str
    file: str
    image: Path
    right: str
    wrong: str


@dataclass(frozen=True)
class Entries:
    """What the files of the configured sets say; pictures are not opened yet.

    Attributes:
        sugarcrepe: by subset; empty where it is not configured.
        winoground: both images and their captions.
    """

    sugarcrepe: dict[str, list[SugarCrepeEntry]]
    winoground: list[tuple[Path, Path, str, str]]


@dataclass(frozen=True)
class CompositionalityResult:
    """What is found on the sets.

    Attributes:
        metrics: by key.
        chance: what guessing reaches, under the same keys.
        rows: one an entry, with the digest of the set.
    """

    metrics: dict[str, float]
    chance: dict[str, float]
    rows: list[ItemRow]


def read_entries(config: CompositionalityConfig) -> Entries:
    """The entries of the sets that are configured.

    Raises:
        ConfigError: a file or an image is missing or none of the published form; names it and the entry.
    """
    sugarcrepe: dict[str, list[SugarCrepeEntry]] = {}
    if config.sugarcrepe is not None and config.sugarcrepe_images is not None:
        folder, images = Path(config.sugarcrepe), Path(config.sugarcrepe_images)
        sugarcrepe = {subset: _sugarcrepe_entries(folder / f"{subset}.json", images) for subset in SUBSETS}
    return Entries(sugarcrepe, [] if config.winoground is None else _winoground_entries(Path(config.winoground)))


def measure_compositionality(
    embedder: TowerEmbedder, read: Entries, kept: EmbeddingCache = NO_CACHE
) -> CompositionalityResult:
    """Measure the sets that have entries.

    Args:
        embedder: the model.
        read: what the files of the sets say.
        kept: embeddings of this model, from before and from now on.

    Raises:
        ConfigError: a picture cannot be decoded.
    """
    chance: dict[str, float] = {}
    rows: list[ItemRow] = []

    def images(what: str, paths: Sequence[Path]) -> FloatArray:
        found = kept.arrays(what, lambda: {"embeddings": embedder.images(_pictures(paths))})
        return np.asarray(found["embeddings"])

    def texts(wanted: Sequence[str]) -> FloatArray:
        return kept.texts(embedder.texts, wanted)

    if read.sugarcrepe:
        # Of entries and image bytes: results on other files must not be compared.
        image_of = functools.cache(_file_digest)
        version = _digest(
            [subset, e.name, image_of(e.image), e.right, e.wrong]
            for subset, entries in read.sugarcrepe.items()
            for e in entries
        )
        for subset, entries in read.sugarcrepe.items():
            hit_N = sugarcrepe_hits(
                images(f"sugarcrepe {version} {subset}", [entry.image for entry in entries]),
                texts([entry.right for entry in entries]),
                texts([entry.wrong for entry in entries]),
            )
            for entry, right in zip(entries, hit_N.tolist(), strict=True):
                of_entry = {"key": f"{subset}/{entry.name}", "subset": subset, "image": entry.file}
                rows.append({"set": "sugarcrepe", **of_entry, "right": right, SET_VERSION: version})
        chance |= {f"sugarcrepe/{subset}/accuracy": 0.5 for subset in (*read.sugarcrepe, "mean")}
    if entries_W := read.winoground:
        version = _digest([_file_digest(first), _file_digest(second), a, b] for first, second, a, b in entries_W)
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
    """(N,) whether the right caption is nearer to its image than the wrong one."""
    return _nearer(_dot(image_NE, right_NE), _dot(image_NE, wrong_NE))


def winoground_hits(
    first_NE: FloatArray, second_NE: FloatArray, a_NE: FloatArray, b_NE: FloatArray
) -> tuple[Flags, Flags]:
    """Text and image score of each pair: for each image the right caption is nearer, and for each caption the right image.

    Args:
        first_NE: embeddings of the first images.
        second_NE: of the second.
        a_NE: of the captions of the first.
        b_NE: of the captions of the second.
    """
    first_a, first_b = _dot(first_NE, a_NE), _dot(first_NE, b_NE)
    second_a, second_b = _dot(second_NE, a_NE), _dot(second_NE, b_NE)
    return (
        _nearer(first_a, first_b) & _nearer(second_b, second_a),
        _nearer(first_a, second_a) & _nearer(second_b, first_b),
    )


def _dot(a_NE: FloatArray, b_NE: FloatArray) -> FloatArray:
    return np.asarray((a_NE * b_NE).sum(axis=1))


def _nearer(a_N: FloatArray, b_N: FloatArray) -> Flags:
    return np.asarray(a_N > b_N + TIE_TOLERANCE)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(entries: Iterable[list[str]]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        # In JSON texts cannot run into each other.
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def _sugarcrepe_entries(path: Path, images: Path) -> list[SugarCrepeEntry]:
    found = []
    for name, entry in _json(path, path.read_text(encoding="utf-8") if path.is_file() else None).items():
        file, right, wrong = _fields(entry, ("filename", "caption", "negative_caption"), f"{path}, entry {name}")
        found.append(SugarCrepeEntry(name, file, _existing(images / file, f"{path}, entry {name}"), right, wrong))
    if not found:
        raise ConfigError(f"{path}: holds no entry")
    return found


def _winoground_entries(folder: Path) -> list[tuple[Path, Path, str, str]]:
    path, found = folder / "examples.jsonl", []
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    # Not `splitlines`: a caption may hold a separator that JSON leaves as it is.
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], start=1):
        where = f"{path}, line {number}"
        first, second, a, b = _fields(_json(path, line, where), ("image_0", "image_1", "caption_0", "caption_1"), where)
        files = [_existing(folder / "images" / f"{name}.png", where) for name in (first, second)]
        found.append((files[0], files[1], a, b))
    if text is None or not found:
        raise ConfigError(f"{path}: {'no such file' if text is None else 'holds no entry'}; it comes with Winoground")
    return found


def _json(path: Path, text: str | None, where: str | None = None) -> dict[str, Any]:
    if text is None:
        raise ConfigError(f"{path}: no such file; SugarCrepe has one for each subset: {', '.join(SUBSETS)}")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where or path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{where or path}: expected an object, found {type(found).__name__}")
    return found


def _fields(entry: Any, names: Sequence[str], where: str) -> list[str]:
    values = [entry.get(name) if isinstance(entry, dict) else None for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if not isinstance(value, str) or not value]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    return [str(value) for value in values]


def _existing(path: Path, where: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{where}: there is no image {path}")
    return path


def _pictures(paths: Iterable[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield open_image(path.read_bytes())
        except UndecodableImageError as error:
            raise ConfigError(f"{path}: cannot be decoded ({error})") from None
