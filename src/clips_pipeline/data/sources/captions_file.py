"""Captions files: JSON, CSV or Parquet files that map images to captions."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.caption_values import CaptionTypeError, drop_blank, parse_captions
from clips_pipeline.data.shards.records import (
    Caption,
    CaptionerNames,
    captioner_fields,
    captioner_names,
    is_label,
    parse_score,
)

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_A_TIME = 256
# Parquet packs captions to a third or a tenth of their size.
_MAX_UNPACKED = 100
_MAX_UNPACKED_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class CaptionFields:
    """Names of the keys (JSON) or columns (CSV, Parquet). Rows of a Parquet file are read like entries of JSON.

    Attributes:
        image: path of the image, relative to the folder of images.
        captions: JSON: list of human captions.
        caption: CSV: one human caption; several rows of an image give several. JSON: the web caption, or a list of them;
            optional.
        long_caption: the synthetic caption; optional. A list of keys, each named after its captioner, or a mapping from
            captioners to keys gives several, and so does JSON with a list of texts or an object captioner → text.
        label: class number; optional.
        score: a number for the pair, for a filter; optional.
    """

    image: str = "image"
    captions: str = "captions"
    caption: str = "caption"
    long_caption: CaptionerNames = "long_caption"
    label: str = "label"
    score: str = "score"

    def __post_init__(self) -> None:
        names = [name for _, name in captioner_fields(self.long_caption)]
        if not names or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"long_caption: {self.long_caption!r} must name at least one key, and none of them twice")

    @property
    def captioners(self) -> tuple[str, ...]:
        """Captioners that are named here; empty if they are unknown."""
        return captioner_names(self.long_caption)


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """Entry of one image. Bytes that are not UTF-8 are lone surrogates in the texts.

    Attributes:
        image: relative path.
        web: web captions; may be empty.
        synthetic: synthetic captions; may be empty.
        captions: human captions.
        label: class number, or None.
        score: score for a filter, or None.
        fault: why the entry cannot be used, or None.
    """

    image: str
    web: tuple[str, ...] = ()
    synthetic: tuple[Caption, ...] = ()
    captions: tuple[str, ...] = ()
    label: int | None = None
    score: float | None = None
    fault: str | None = None


def read_captions(file: Path, fields: CaptionFields) -> list[CaptionRow]:
    """Return all entries in the order of the file; rows of a CSV file are grouped by image.

    Raises:
        ConfigError: the file is missing, is not JSON, CSV or Parquet, has no image field or no caption field, or has no
            entry.
    """
    ending = file.suffix.lower()
    if ending not in (".json", ".csv", ".parquet"):
        raise ConfigError(f"captions: {file} ends neither in .json nor in .csv nor in .parquet; give one of these")
    # With `surrogateescape`, bytes that are not UTF-8 affect only their own sample.
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"captions: {file} does not exist; give the path of a JSON, CSV or Parquet file") from None
    except OSError as error:
        raise ConfigError(f"captions: {file} cannot be read ({error.strerror}); give a readable file") from None
    if ending == ".parquet":
        rows = _json_rows(_parquet_entries(content, file), file, fields)
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
        rows = _from_json(text, file, fields) if ending == ".json" else _from_csv(text, file, fields)
    if not rows:
        raise ConfigError(f"captions: {file} has no entry; add at least one image with captions")
    return rows


def join_sentences(captions: Iterable[str]) -> str:
    """Join captions into one text, each ended by '.', so that it can be split into them again."""
    stripped = (re.sub(r"\s+", " ", caption).strip() for caption in captions)
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in stripped if text)


def _from_json(text: str, file: Path, fields: CaptionFields) -> list[CaptionRow]:
    try:
        entries = json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"captions: {file} is not valid JSON ({error}); repair it") from None
    if not isinstance(entries, list):
        raise ConfigError(f"captions: {file} holds a {type(entries).__name__}; give a list of entries, one per image")
    return _json_rows(entries, file, fields)


def _parquet_entries(content: bytes, file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    unpacked = 0
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content))
        # Each row names an image of its own, and rows that are equal take next to nothing: refuse before unpacking them.
        if parquet.metadata.num_rows > len(content):
            raise ConfigError(
                f"captions: {file} has {parquet.metadata.num_rows} rows in {len(content)} bytes; write it again"
            )
        for batch in parquet.iter_batches(_ROWS_AT_A_TIME):
            unpacked += sum(_unpacked_bytes(column) for column in batch.columns)
            if unpacked > _MAX_UNPACKED * len(content) + _MAX_UNPACKED_BYTES:
                raise ConfigError(
                    f"captions: {file} unpacks to more than {_MAX_UNPACKED} times its size; write it again"
                )
            rows += batch.to_pylist()
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"captions: {file} is not valid Parquet ({error}); write it again") from None
    # Keys that JSON omits are null in a table.
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _unpacked_bytes(array: "pa.Array") -> int:
    """Return the bytes of an array as plain values; a dictionary holds each of its texts once, however often it occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type) and pa.types.is_string(array.type.value_type):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return _unpacked_bytes(array.flatten())
    if pa.types.is_struct(array.type):
        return sum(map(_unpacked_bytes, array.flatten()))
    return int(array.nbytes)


def _json_rows(entries: list[Any], file: Path, fields: CaptionFields) -> list[CaptionRow]:
    if not entries:
        return []
    known = {name for entry in entries if isinstance(entry, dict) for name in entry}
    _require(fields.image, known, file, "source.folder.fields.image")
    if fields.captions not in known:
        _require(fields.caption, known, file, "source.folder.fields.captions")
    _require_long_captions(fields, known, file)
    return [_json_row(entry, number, fields) for number, entry in enumerate(entries)]


def _json_row(entry: Any, number: int, fields: CaptionFields) -> CaptionRow:
    if not isinstance(entry, dict) or not isinstance(entry.get(fields.image), str):
        return CaptionRow(image=f"entry {number}", fault=f"no text under {fields.image!r}")
    image = entry[fields.image]
    captions = entry.get(fields.captions, [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return CaptionRow(image, fault=f"{fields.captions!r} is not a list of texts{_one_text(captions)}")
    found: list[list[Caption]] = []
    for captioner, name in (("", fields.captions), ("", fields.caption), *captioner_fields(fields.long_caption)):
        try:
            found.append(parse_captions(entry.get(name), captioner))
        except CaptionTypeError as error:
            return CaptionRow(image, fault=f"{name!r} {error}")
    web = None if entry.get(fields.caption) is None else [caption.text for caption in found[1]]
    synthetic = [caption for of_field in found[2:] for caption in of_field]
    named = any(entry.get(name) is not None for _, name in captioner_fields(fields.long_caption))
    label, score = entry.get(fields.label), entry.get(fields.score)
    return _make_row(fields, image, web, synthetic if named else None, tuple(captions), label, score)


def _one_text(captions: object) -> str:
    return "; write one text as a list of one" if isinstance(captions, str) else ""


def _from_csv(text: str, file: Path, fields: CaptionFields) -> list[CaptionRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval="")
    _require(fields.image, reader.fieldnames or (), file, "source.folder.fields.image")
    _require(fields.caption, reader.fieldnames or (), file, "source.folder.fields.caption")
    _require_long_captions(fields, reader.fieldnames or (), file)
    by_image: dict[str, list[dict[str, str]]] = {}
    limit = csv.field_size_limit(max(len(text), 1))  # the only error of this reader; a long cell affects its own row
    try:
        for line in reader:
            by_image.setdefault(line[fields.image], []).append(line)
    finally:
        csv.field_size_limit(limit)
    return [_csv_row(image, lines, fields) for image, lines in by_image.items()]


def _csv_row(image: str, lines: list[dict[str, str]], fields: CaptionFields) -> CaptionRow:
    def first(field: str) -> str | None:
        return next((line[field] for line in lines if line.get(field, "").strip()), None)

    if not image.strip():
        return CaptionRow(image="row without an image", fault=f"nothing under {fields.image!r}")
    captions = tuple(line[fields.caption] for line in lines if line[fields.caption].strip())
    label, score = (_as_number(first(field), kind) for field, kind in ((fields.label, int), (fields.score, float)))
    texts = [(captioner, first(name)) for captioner, name in captioner_fields(fields.long_caption)]
    synthetic = [Caption(text, captioner) for captioner, text in texts if text is not None]
    return _make_row(fields, image, None, synthetic or None, captions, label, score)


def _as_number(text: str | None, kind: Callable[[str], float]) -> float | str | None:
    """Convert a text of a CSV file to a number; return the text itself if it is not a number."""
    try:
        return None if text is None else kind(text)
    except ValueError:
        return text


def _parse_int(digits: str) -> int | float:
    """Convert an integer of JSON; Python refuses those of more than 4,300 digits, which would refuse the whole file."""
    return int(digits) if len(digits) <= 20 else float(digits)


def _short(value: object) -> str:
    return repr(value)[:40]


def _make_row(
    fields: CaptionFields,
    image: str,
    web: list[str] | None,
    synthetic: list[Caption] | None,
    captions: tuple[str, ...],
    label: Any,
    score: Any,
) -> CaptionRow:
    """Make a row. Without a web caption, the first human caption replaces it; without a long caption, the others do."""
    if label is not None and not is_label(label):
        return CaptionRow(image, fault=f"{fields.label!r} is {_short(label)}; a class number from 0 is needed")
    if score is not None and parse_score(score) is None:
        return CaptionRow(image, fault=f"{fields.score!r} is {_short(score)}; a number is needed")
    if web is None:
        web, others = list(captions[:1]), captions[1:]
    else:
        others = tuple(caption for caption in captions if caption not in web)
    long = drop_blank([Caption(join_sentences(others))] if synthetic is None else synthetic)
    texts = tuple(caption.text for caption in drop_blank([Caption(text) for text in web]))
    return CaptionRow(image, texts, long, captions, label, parse_score(score))


def _require_long_captions(fields: CaptionFields, known: Iterable[str], file: Path) -> None:
    """Refuse names of synthetic captions that no entry has; only the default name may be missing."""
    if fields.long_caption != CaptionFields().long_caption:
        for _, name in captioner_fields(fields.long_caption):
            _require(name, known, file, "source.folder.fields.long_caption")


def _require(field: str, known: Iterable[str], file: Path, key: str) -> None:
    if field not in known:
        names = ", ".join(sorted(str(name) for name in known)) or "none"
        raise ConfigError(f"{key}: {file} has no field {field!r} (it has: {names}); name an existing one")
