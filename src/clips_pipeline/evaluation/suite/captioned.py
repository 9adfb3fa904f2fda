"""Sets of images with captions, each in its published files.

karpathy      JSON `{"images": [{filename, filepath, split, sentences: [{raw}]}]}` (COCO, Flickr30K), and a folder of images
caption_list  JSON `[{"image": name, "caption": text or list of texts}]` (FLAIR, ALBEF), and a folder of images
urban1k       caption/NAME.txt, whose first line is the caption, and image/NAME.jpg (Long-CLIP)
docci         docci_descriptions.jsonlines `{split, image_file, description}`, and images/
dci           splits.json, annotations/*.json `{image, short_caption, extra_caption}`, and photos/
iiw           IIW-400/data.jsonl `{"image/key", "IIW"}`, and DOCCI's folder images_aar
sharegpt4v    the first 1,000 entries of ShareGPT4V's JSON `[{image, conversations: [_, {value}]}]`, and the folder of `image`
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.published_files import (
    checked_text,
    image_path,
    read_first_objects,
    read_json_file,
    read_json_lines,
    read_text,
    text_of,
)
from clips_pipeline.evaluation.suite.config import SetConfig
from clips_pipeline.evaluation.suite.image_set import FileSet, ImageItem

SHAREGPT4V_ENTRIES = 1_000
"""Entries of ShareGPT4V that Long-CLIP and its successors evaluate on: the first ones of the file."""

ALL_SPLITS = "all"

Found = Iterator[ImageItem]


def open_captioned(config: SetConfig, path: Path) -> FileSet:
    """Read the captions of a set and check that all its images exist.

    Args:
        config: kind and split of the set.
        path: its folder or file.

    Raises:
        ConfigError: a file is missing or not in its published form; the message names it and the entry.
    """
    images = Path(config.images_path) if config.images_path is not None else path
    return FileSet.of(list(_READERS[config.kind](path, images, config.split)), None, path)


def _karpathy(path: Path, folder: Path, split: str) -> Found:
    entries = read_json_file(path, dict).get("images")
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: has no list `images`; use Karpathy's dataset_coco.json or dataset_flickr30k.json")
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, image {number}"
        if text_of(entry, "split", where) != split:
            continue
        name = text_of(entry, "filename", where)
        if entry.get("filepath"):
            name = f"{text_of(entry, 'filepath', where)}/{name}"
        sentences = entry.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            raise ConfigError(f"{where}: has no list `sentences`; use the published file of this set")
        captions = tuple(text_of(sentence, "raw", where) for sentence in sentences)
        yield _item(name, folder, captions, where)


def _caption_list(path: Path, folder: Path, _: str) -> Found:
    for number, entry in enumerate(read_json_file(path, list), start=1):
        where = f"{path}, entry {number}"
        name = text_of(entry, "image", where)
        captions = entry["caption"] if isinstance(entry.get("caption"), list) else [entry.get("caption")]
        if not captions:
            raise ConfigError(f"{where}: caption is an empty list; use the published file of this set")
        yield _item(name, folder, tuple(text_of({"caption": one}, "caption", where) for one in captions), where)


def _urban1k(path: Path, _: Path, __: str) -> Found:
    captions = path / "caption"
    if not captions.is_dir():
        raise ConfigError(f"{path}: has no folder `caption`; use the published folder Urban1k")
    for file in sorted(captions.glob("*.txt")):
        lines = read_text(file).split("\n")
        if not lines[0].strip():
            raise ConfigError(f"{file}: its first line is blank; use the published files of Urban1k")
        yield _item(f"{file.stem}.jpg", path / "image", (checked_text(lines[0].strip(), str(file)),), str(file))


def _docci(path: Path, _: Path, split: str) -> Found:
    for where, entry in read_json_lines(path / "docci_descriptions.jsonlines"):
        if text_of(entry, "split", where) == split:
            yield _item(
                text_of(entry, "image_file", where), path / "images", (text_of(entry, "description", where),), where
            )


def _dci(path: Path, _: Path, split: str) -> Found:
    splits_file = path / "splits.json"
    splits = read_json_file(splits_file, dict)
    if split != ALL_SPLITS and split not in splits:
        raise ConfigError(f"{splits_file}: has no split {split!r}, only {', '.join(map(str, splits))}, {ALL_SPLITS}")
    names = [
        name for key, of_split in splits.items() if split in (ALL_SPLITS, key) for name in _names(of_split, splits_file)
    ]
    for name in names:
        file = image_path(path / "annotations", name, str(splits_file))
        entry = read_json_file(file, dict)
        extra = entry.get("extra_caption") or ""
        if not isinstance(extra, str):
            raise ConfigError(f"{file}: extra_caption is no text; use the published file of this set")
        caption = f"{text_of(entry, 'short_caption', str(file))}\n{extra}".strip()
        yield _item(text_of(entry, "image", str(file)), path / "photos", (checked_text(caption, str(file)),), str(file))


def _iiw(path: Path, folder: Path, _: str) -> Found:
    file = path / "data.jsonl" if path.is_dir() else path
    for where, entry in read_json_lines(file):
        name = text_of(entry, "image/key", where)
        yield _item(name if name.endswith(".jpg") else f"{name}.jpg", folder, (text_of(entry, "IIW", where),), where)


def _sharegpt4v(path: Path, folder: Path, _: str) -> Found:
    for where, entry in read_first_objects(path, SHAREGPT4V_ENTRIES):
        turns = entry.get("conversations")
        if not isinstance(turns, list) or len(turns) < 2:
            raise ConfigError(f"{where}: conversations has no second turn; use ShareGPT4V's published file")
        # As in Long-CLIP's evaluation.
        caption = text_of(turns[1], "value", f"{where}, conversations").replace("\n", " ")
        yield _item(text_of(entry, "image", where), folder, (caption,), where)


def _names(found: Any, file: Path) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{file}: a split is no list of file names; use the published file of this set")
    return list(found)


def _item(name: str, folder: Path, captions: tuple[str, ...], where: str) -> ImageItem:
    file = image_path(folder, name, where)
    return ImageItem(str(PurePosixPath(name).with_suffix("")), file, captions)


_READERS: dict[str, Callable[[Path, Path, str], Found]] = {
    "karpathy": _karpathy,
    "caption_list": _caption_list,
    "urban1k": _urban1k,
    "docci": _docci,
    "dci": _dci,
    "iiw": _iiw,
    "sharegpt4v": _sharegpt4v,
}
