"""Reading of the files of published sets: text, JSON, JSON lines, and names of images. One error names file and entry."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS, find_excess
from clips_pipeline.io.json_text import MAX_DEPTH, json_depth, parse_json

_MAX_FILE_BYTES = 2**29
_CHUNK_CHARACTERS = 2**20
_MAX_OBJECT_CHARACTERS = 2**24
_MAX_NAME_BYTES, _MAX_PART = 1_000, 255


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file of at most 512 MiB.

    Raises:
        ConfigError: the file is missing, too large, not UTF-8, or cannot be read.
    """
    try:
        size = _regular(path).st_size
        if size > _MAX_FILE_BYTES:
            raise ConfigError(
                f"{path}: {size} bytes, at most {_MAX_FILE_BYTES} are read; use the published file of this set"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; use the published files of this set (docs/how-to/suite.md)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); use the published file") from None


def read_json_file(path: Path, expected: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    """Return the list or the object of a JSON file.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or holds another type.
    """
    return _checked(_parse(read_text(path), str(path)), expected, str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and object of each line of a file of JSON lines; blank lines at the end do not count.

    Raises:
        ConfigError: the file cannot be read, or a line is not a JSON object.
    """
    # Not `splitlines`: a text may contain a line separator that JSON does not escape.
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), start=1):
        where = f"{path}, line {number}"
        if line or number > 1:
            yield where, _checked(_parse(line, where), dict, where)


def read_first_objects(path: Path, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and object of the first `count` objects of a JSON list, without reading the rest of the file.

    ShareGPT4V's file has 1.5 GB, of which an evaluation needs the first thousand entries.

    Raises:
        ConfigError: the file cannot be read, is no JSON list of objects, or an object has more than 16 MiB.
    """
    decoder, found, buffer, begun = json.JSONDecoder(), 0, "", False
    try:
        _regular(path)
        with path.open(encoding="utf-8") as file:
            while found < count:
                where = f"{path}, entry {found + 1}"
                buffer = buffer.lstrip(" \t\r\n," if begun else " \t\r\n\ufeff")
                if not begun and buffer:
                    if buffer[0] != "[":
                        raise ConfigError(f"{path}: expected a JSON list; use the published file")
                    begun, buffer = True, buffer[1:]
                    continue
                if buffer.startswith("]"):
                    return
                # An object is complete only if something follows it: a list has at least its end.
                value, end = _try_object(decoder, buffer, where)
                if end:
                    yield where, _checked(value, dict, where)
                    found, buffer = found + 1, buffer[end:]
                    continue
                more = file.read(_CHUNK_CHARACTERS)
                if not more:
                    raise ConfigError(f"{where}: the file ends inside its JSON list; download it again")
                buffer += more
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; use the published file of this set (docs/how-to/suite.md)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); use the published file") from None


def text_of(entry: Any, name: str, where: str) -> str:
    """Return a text field that is not blank and within the limits of captions.

    Raises:
        ConfigError: the field is missing, blank, of another type, or too long.
    """
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        kind = "missing" if value is None else f"{type(value).__name__}, expected text that is not blank"
        raise ConfigError(f"{where}: {name} is {kind}; use the published file of this set")
    return checked_text(value, where)


def checked_text(value: str, where: str) -> str:
    """Return a text within the limits of captions.

    Raises:
        ConfigError: the text is too long.
    """
    if (excess := find_excess(value, DEFAULT_LIMITS)) is not None:
        raise ConfigError(f"{where}: a text is too long ({excess[1]}); use the published file of this set")
    return value


def image_path(folder: Path, name: str, where: str) -> Path:
    """Return the path of an image that a file names, inside `folder`.

    Raises:
        ConfigError: the name leads out of the folder.
    """
    parts = PurePosixPath(name)
    outside = not parts.name or parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name
    # A lone surrogate cannot be part of a path, and file systems refuse long names.
    encoded = name.encode("utf-8", "replace")
    if outside or encoded.decode() != name or len(encoded) > _MAX_NAME_BYTES or max(map(len, parts.parts)) > _MAX_PART:
        raise ConfigError(
            f"{where}: image {name[:100]!r} is no name inside {folder}; use the published file of this set"
        )
    return folder / name


def existing_image(folder: Path, name: str, where: str) -> Path:
    """Return the path of an image that a file names, which exists.

    Raises:
        ConfigError: the name leads out of the folder, or there is no such file.
    """
    path = image_path(folder, name, where)
    if not path.is_file():
        raise ConfigError(f"{where}: image {path} does not exist")
    return path


def _regular(path: Path) -> os.stat_result:
    """Return the facts of a regular file: reading a pipe would wait without end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}: no regular file; use the published files of this set (docs/how-to/suite.md)")
    return found


def _parse(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON ({error}); use the published file of this set") from None


def _checked(value: Any, expected: type[Any], where: str) -> Any:
    if not isinstance(value, expected):
        name = "a JSON list" if expected is list else "a JSON object"
        raise ConfigError(f"{where}: expected {name}, found {type(value).__name__}; use the published file")
    return value


def _try_object(decoder: json.JSONDecoder, buffer: str, where: str) -> tuple[Any, int]:
    """Return the value at the start of the buffer and its end; 0 if it is not complete yet."""
    try:
        value, end = decoder.raw_decode(buffer)
    except RecursionError:
        raise ConfigError(
            f"{where}: more than {MAX_DEPTH} levels of lists and objects; use the published file"
        ) from None
    except json.JSONDecodeError as error:
        if len(buffer) > _MAX_OBJECT_CHARACTERS:
            raise ConfigError(f"{where}: not valid JSON ({error}); use the published file of this set") from None
        return None, 0
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON ({error}); use the published file of this set") from None
    if json_depth(buffer[:end]) > MAX_DEPTH:
        raise ConfigError(f"{where}: more than {MAX_DEPTH} levels of lists and objects; use the published file")
    # A number could go on in the next chunk.
    return (value, end) if end < len(buffer) else (None, 0)
