"""A JSON, CSV or Parquet file that says which captions belong to which image."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the keys (JSON) or columns (CSV, Parquet). A Parquet file is read as JSON would be, row by row.

    Attributes:
        image: path of the image, relative to the folder of images.
        captions: JSON: list of captions by people.
        caption: CSV: one caption by a person, repeated rows give several; JSON: the web caption, optional.
        long_caption: the synthetic caption; optional.
        label: class number; optional.
        score: number of the pair, for a filter; optional.
    """

    image: str = "image"
    captions: str = "captions"
    caption: str = "caption"
    long_caption: str = "long_caption"
    label: str = "label"
    score: str = "score"


@dataclass(frozen=True, slots=True)
class Row:
    """What the file says about one image. Bytes that are no UTF-8 stand as lone surrogates in the texts.

    Attributes:
        image: relative path.
        web: the short caption; may be empty.
        synthetic: the long caption; may be empty.
        captions: all captions by people.
        label: class number, or None.
        score: for a filter, or None.
        fault: why the entry cannot be read, or None.
    """

    image: str
    web: str = ""
    synthetic: str = ""
    captions: tuple[str, ...] = ()
    label: int | None = None
    score: float | None = None
    fault: str | None = None


def read_captions(file: Path, fields: Fields) -> list[Row]:
    """All entries in the order of the file, one per image in a CSV file.

    Raises:
        ConfigError: the file is missing, is neither JSON nor CSV nor Parquet, lacks the field of the image or any caption
            field, or holds no entry.
    """
    ending = file.suffix.lower()
    if ending not in (".json", ".csv", ".parquet"):
        raise ConfigError(f"captions: {file} ends neither in .json nor in .csv nor in .parquet; give one of these")
    # Bytes that are no UTF-8 must cost their own sample, not the whole file; hence `surrogateescape` below.
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"captions: {file} does not exist; give the path of a JSON, CSV or Parquet file") from None
    except OSError as error:
        raise ConfigError(f"captions: {file} cannot be read ({error.strerror}); give a file that can be") from None
    if ending == ".parquet":
        rows = _rows(_parquet_entries(content, file), file, fields)
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
        rows = _from_json(text, file, fields) if ending == ".json" else _from_csv(text, file, fields)
    if not rows:
        raise ConfigError(f"captions: {file} holds no entry; add at least one image with captions")
    return rows


def sentences(captions: Iterable[str]) -> str:
    """Captions joined into one text, each ended by '.', so that sub-captions can be told apart again."""
    stripped = (re.sub(r"\s+", " ", caption).strip() for caption in captions)
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in stripped if text)


def digest(file: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _from_json(text: str, file: Path, fields: Fields) -> list[Row]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"captions: {file} is not valid JSON ({error}); repair it") from None
    if not isinstance(entries, list):
        raise ConfigError(
            f"captions: {file} holds a {type(entries).__name__}; a list of entries, one per image, is needed"
        )
    return _rows(entries, file, fields)


def _parquet_entries(content: bytes, file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ConfigError(f"captions: {file} is not valid Parquet ({error}); write it anew") from None
    # What JSON leaves out, a table holds as null.
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _rows(entries: list[Any], file: Path, fields: Fields) -> list[Row]:
    if not entries:
        return []
    known = {name for entry in entries if isinstance(entry, dict) for name in entry}
    _require(fields.image, known, file, "source.folder.fields.image")
    if fields.captions not in known:
        _require(fields.caption, known, file, "source.folder.fields.captions")
    return [_json_row(entry, number, fields) for number, entry in enumerate(entries)]


def _json_row(entry: Any, number: int, fields: Fields) -> Row:
    if not isinstance(entry, dict) or not isinstance(entry.get(fields.image), str):
        return Row(image=f"entry {number}", fault=f"no text under {fields.image!r}")
    image = entry[fields.image]
    captions = entry.get(fields.captions, [])
    web, synthetic, label = (entry.get(name) for name in (fields.caption, fields.long_caption, fields.label))
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return Row(image, fault=f"{fields.captions!r} is no list of texts")
    if not all(text is None or isinstance(text, str) for text in (web, synthetic)):
        return Row(image, fault=f"{fields.caption!r} or {fields.long_caption!r} is no text")
    if label is not None and (not isinstance(label, int) or isinstance(label, bool) or label < 0):
        return Row(image, fault=f"{fields.label!r} is {label!r}; a class number from 0 is needed")
    score = entry.get(fields.score)
    if score is not None and (not isinstance(score, int | float) or isinstance(score, bool)):
        return Row(image, fault=f"{fields.score!r} is {score!r}; a number is needed")
    return _row(image, web, synthetic, tuple(captions), label, None if score is None else float(score))


def _from_csv(text: str, file: Path, fields: Fields) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    _require(fields.image, reader.fieldnames or (), file, "source.folder.fields.image")
    _require(fields.caption, reader.fieldnames or (), file, "source.folder.fields.caption")
    by_image: dict[str, list[dict[str, str]]] = {}
    try:
        for line in reader:
            by_image.setdefault(line[fields.image], []).append(line)
    except csv.Error as error:
        raise ConfigError(
            f"captions: {file}, after line {reader.line_num}: no valid CSV ({error}); repair it"
        ) from None
    return [_csv_row(image, lines, fields) for image, lines in by_image.items()]


def _csv_row(image: str, lines: list[dict[str, str]], fields: Fields) -> Row:
    if not image.strip():
        return Row(image="row without an image", fault=f"nothing under {fields.image!r}")
    captions = tuple(line[fields.caption] for line in lines if line[fields.caption].strip())
    synthetic = next((line[fields.long_caption] for line in lines if line.get(fields.long_caption, "").strip()), None)
    written = next((line[fields.label] for line in lines if line.get(fields.label, "").strip()), None)
    if written is not None and not re.fullmatch(r"[0-9]+", written.strip()):
        return Row(image, fault=f"{fields.label!r} is {written!r}; a class number from 0 is needed")
    scored = next((line[fields.score] for line in lines if line.get(fields.score, "").strip()), None)
    try:
        score = None if scored is None else float(scored)
    except ValueError:
        return Row(image, fault=f"{fields.score!r} is {scored!r}; a number is needed")
    return _row(image, None, synthetic, captions, None if written is None else int(written), score)


def _row(
    image: str,
    web: str | None,
    synthetic: str | None,
    captions: tuple[str, ...],
    label: int | None,
    score: float | None,
) -> Row:
    """Without a web caption the first one by a person stands in for it; without a long caption, the others joined."""
    if web is None:
        web, others = (captions[0], captions[1:]) if captions else ("", ())
    else:
        others = tuple(caption for caption in captions if caption != web)
    return Row(image, web, sentences(others) if synthetic is None else synthetic, captions, label, score)


def _require(field: str, known: Iterable[str], file: Path, key: str) -> None:
    if field not in known:
        names = ", ".join(sorted(str(name) for name in known)) or "none"
        raise ConfigError(f"{key}: {file} has no field {field!r} (it has: {names}); name the right one")
