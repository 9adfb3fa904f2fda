"""Tensors of a file that `torch.save` wrote, read without unpickling: nothing of the file is called or imported.

Published weights of CLIPS are such files. `pickletools` lists the instructions of the pickle without acting on them, and this
module follows those that a state dict needs: numbers, texts, tuples, lists, mappings, and descriptions of tensors. Any other
instruction, name or size is an error. Tensors are copied out of the archive's entries, within their bounds.
"""

import math
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.config import ConfigError

_MAX_PICKLE_BYTES = 1 << 24
_MAX_ORDER_BYTES = 16
_MAX_DIMENSIONS = 16
# Tensors may share a storage, and are copies afterwards.
_MAX_SHARED = 4
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")


class _UnreadableError(ValueError):
    """The file is none that this module reads; the message says why."""


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load_torch_archive(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the `state_dict` of a training checkpoint, on the CPU.

    Args:
        file: file that torch 1.6 or later wrote (a zip archive).

    Raises:
        ConfigError: the file is damaged, of the older format, or contains more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return dict(_tensors(archive))
    # What `zipfile` and torch raise for invalid numbers, besides our own error.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error) if isinstance(error, _UnreadableError) else f"damaged: {type(error).__name__} {error}"
        raise ConfigError(
            f"{file}: cannot be read without running code ({reason[:200]}); fetch it again, or convert it to safetensors in a "
            "container without data and credentials (docs/explanation/security.md)"
        ) from None


def _tensors(archive: zipfile.ZipFile) -> Iterator[tuple[str, Tensor]]:
    pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _UnreadableError("no archive of torch 1.6 or later")
    root = pickles[0].filename.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and _entry(archive, f"{root}byteorder", _MAX_ORDER_BYTES) != b"little":
        raise _UnreadableError("its numbers are big-endian")
    with warnings.catch_warnings():
        # `pickletools` warns about escapes in damaged texts.
        warnings.simplefilter("ignore")
        content = _Interpreter(_entry(archive, pickles[0].filename, _MAX_PICKLE_BYTES)).run()
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise _UnreadableError("no mapping of names to tensors")
    storages: dict[str, Tensor] = {}
    left = _MAX_SHARED * sum(entry.compress_size for entry in archive.infolist())
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise _UnreadableError(f"{str(name)[:40]!r} is no tensor")
        key = value.storage.key
        if key not in storages:
            storages[key] = _storage(archive, f"{root}data/{key}", value.storage)
        elif storages[key].dtype != value.storage.dtype:
            raise _UnreadableError(f"two types of numbers in storage {key[:40]!r}")
        _check_view(storages[key], value)
        left -= math.prod(value.size) * value.storage.dtype.itemsize
        if left < 0:
            raise _UnreadableError("tensors that share their storages too often")
        shared = torch.as_strided(storages[key], value.size, value.stride, value.offset)
        yield name, shared.clone(memory_format=torch.contiguous_format)


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    entry = archive.getinfo(name)
    # torch compresses nothing, so that an entry cannot unpack to more than the file.
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
        raise _UnreadableError(f"{name[:60]} is compressed or has more than {limit} bytes")
    return archive.read(entry)


def _storage(archive: zipfile.ZipFile, name: str, storage: _Storage) -> Tensor:
    size = storage.count * storage.dtype.itemsize
    content = _entry(archive, name, size)
    if len(content) != size:
        raise _UnreadableError(f"{name[:60]} has {len(content)} bytes instead of {size}")
    return torch.frombuffer(bytearray(content), dtype=storage.dtype) if size else torch.empty(0, dtype=storage.dtype)


def _check_view(storage: Tensor, view: _View) -> None:
    numbers = (view.offset, *view.size, *view.stride)
    if len(view.size) != len(view.stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise _UnreadableError("a tensor of invalid sizes")
    count = math.prod(view.size)
    last = view.offset + sum((side - 1) * step for side, step in zip(view.size, view.stride, strict=True))
    if count and (last >= storage.numel() or count > storage.numel()):
        raise _UnreadableError("a tensor outside its storage")


class _Interpreter:
    """Follows the instructions of a pickle that make plain values and descriptions of tensors.

    Args:
        content: the pickle.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the value of the pickle."""
        for opcode, argument, _ in pickletools.genops(self._content):
            name = opcode.name
            if name == "STOP":
                return self._stack[-1]
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name not in ("PROTO", "FRAME"):
                follow: Callable[[Any], None] | None = getattr(self, f"_{name.lower()}", None)
                if follow is None:
                    raise _UnreadableError(f"instruction {name}")
                follow(argument)
        raise _UnreadableError("no end")

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _to_mark(self) -> list[Any]:
        place = self._marks.pop()
        items = self._stack[place:]
        del self._stack[place:]
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise _UnreadableError("a value is missing")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _tuple1(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(1)))

    def _tuple2(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(2)))

    def _tuple3(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(3)))

    def _setitem(self, _: Any) -> None:
        self._fill(self._pop(2))

    def _setitems(self, _: Any) -> None:
        self._fill(self._to_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Texts and numbers only: hashing nested tuples can take forever.
            if not isinstance(target, dict) or not isinstance(key, str | int):
                raise _UnreadableError("a mapping with other keys than names")
            target[key] = value

    def _append(self, _: Any) -> None:
        self._extend(self._pop(1))

    def _appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise _UnreadableError("values for what is no list")
        self._stack[-1].extend(items)

    def _binput(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    _long_binput = _binput

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binget(self, number: int) -> None:
        self._stack.append(self._memo[number])

    _long_binget = _binget

    def _global(self, name: str) -> None:
        self._stack.append(_Name(name.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        parts = self._pop(2)
        if not all(isinstance(part, str) for part in parts):
            raise _UnreadableError("a name that is no text")
        self._stack.append(_Name(".".join(parts)))

    def _binpersid(self, _: Any) -> None:
        found = self._stack.pop()
        kind, name, key, _, count = found if isinstance(found, tuple) and len(found) == 5 else (None,) * 5
        dtype = _DTYPES.get(name.text.removeprefix("torch.")) if isinstance(name, _Name) else None
        if kind != "storage" or dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise _UnreadableError("a storage of an unknown kind")
        self._stack.append(_Storage(key, dtype, count))

    def _reduce(self, _: Any) -> None:
        called, arguments = self._pop(2)
        name = called.text if isinstance(called, _Name) else type(called).__name__
        if name == "collections.OrderedDict" and arguments in ((), ([],)):
            self._stack.append({})
        elif name == "torch._utils._rebuild_tensor_v2" and isinstance(arguments[0], _Storage):
            storage, offset, size, stride = arguments[:4]
            if max(len(size), len(stride)) > _MAX_DIMENSIONS:
                raise _UnreadableError("a tensor of invalid sizes")
            self._stack.append(_View(storage, offset, tuple(size), tuple(stride)))
        elif name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], _View):
            self._stack.append(arguments[0])
        else:
            raise _UnreadableError(f"a call of {name[:60]}")

    def _build(self, _: Any) -> None:
        # The version numbers that PyTorch keeps beside a state dict (`_metadata`) are dropped.
        self._pop(1)
        if not isinstance(self._stack[-1], dict):
            raise _UnreadableError("attributes of what is no mapping")
