"""Mutated shards: six samples in a tar, and one to three accidents or attacks."""

import io
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.unit.data.samples import image_bytes, record

from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.shards.writer import make_sample

_BLOCK = 512


def count_samples(folder: Path, shards: int) -> int:
    """Return the samples that can be seen in the shards `00000.tar` and so on; a shard that is no tar counts as one."""
    count = 0
    for number in range(shards):
        try:
            with TarFile(folder / f"{number:05d}.tar") as tar:
                count += len(tar.keys)
        except BadSampleError:
            count += 1
    return count


HOSTILE_NAMES = (
    b"../../outside.png",
    b"/etc/passwd.txt",
    b"a/../b.json",
    b".png",
    b"k0001.png",
    b"k0001.PNG",
    b"<script>alert(1)</script>.txt",
    b"new\nline.json",
    b"\xff\xfe.png",
    b"no ending",
    b"many.dots.in.it.png",
    b"a//b.png",
    b"x" * 100,
)


def intact_shard(draws: random.Random, prefix: str) -> bytearray:
    """Return an intact shard in one of the formats of tar writers; its keys begin with `prefix`."""
    buffer = io.BytesIO()
    form = draws.choice([tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    kind = draws.choice(["PNG", "JPEG", "WEBP"])
    folder = draws.choice(["", "", "é" * 30 + "/"])
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(6):
            made = record(number, key=f"{folder}{prefix}{number:04d}", image=image_bytes(number, (64, 48), kind))
            files = [(f"{made.key}.{end}", content) for end, content in make_sample(made).items() if end != "__key__"]
            if draws.random() < 0.02:
                files.append((f"{made.key}.other", b"more"))
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return bytearray(buffer.getvalue())


def mutated_shard(seed: int) -> bytes:
    """Return a shard with one to three mutations; the same seed gives the same bytes."""
    draws = random.Random(seed)  # noqa: S311 - no secret depends on it
    content = intact_shard(draws, f"s{seed:06d}")
    for _ in range(draws.choice([1, 1, 2, 3])):
        if len(content) > 2 * _BLOCK:
            draws.choice(MUTATIONS)(content, draws)
    return bytes(content)


def _headers(content: bytearray) -> list[int]:
    found, at = [], 0
    while at + _BLOCK <= len(content) and content[at]:
        found.append(at)
        at += _BLOCK + -(-_size(content, at) // _BLOCK) * _BLOCK
    return found


def _size(content: bytearray, at: int) -> int:
    try:
        return max(0, int(content[at + 124 : at + 136].strip(b" \0") or b"0", 8))
    except ValueError:
        return 0


def _rewrite(content: bytearray, at: int, place: slice, value: bytes, fits: bool = True) -> None:
    """Change a field of the header at `at`; with `fits`, update the checksum."""
    width = place.stop - place.start
    header = content[at : at + _BLOCK]
    header[place] = value[:width].ljust(width, b"\0")
    if fits:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    content[at : at + _BLOCK] = header


def flip_bits(content: bytearray, draws: random.Random) -> None:
    for _ in range(draws.choice([1, 3, 50])):
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)


def flip_header_bit(content: bytearray, draws: random.Random) -> None:
    content[draws.choice(_headers(content)) + draws.randrange(_BLOCK)] ^= 1 << draws.randrange(8)


def truncate(content: bytearray, draws: random.Random) -> None:
    del content[draws.randrange(len(content)) :]


def swap_headers(content: bytearray, draws: random.Random) -> None:
    a, b = draws.choice(_headers(content)), draws.choice(_headers(content))
    one, other = content[a : a + _BLOCK], content[b : b + _BLOCK]
    content[a : a + _BLOCK], content[b : b + _BLOCK] = other, one


def swap_members(content: bytearray, draws: random.Random) -> None:
    """Swap whole files, so that samples interleave."""
    headers = _headers(content)
    if len(headers) < 3:
        return
    ends = [*headers[1:], headers[-1] + _BLOCK]
    pieces = [bytes(content[a:b]) for a, b in zip(headers, ends, strict=True)]
    rest = bytes(content[ends[-1] :])
    i, j = draws.randrange(len(pieces) - 1), draws.randrange(len(pieces) - 1)
    pieces[i], pieces[j] = pieces[j], pieces[i]
    content[:] = b"".join(pieces) + rest


def set_absurd_size(content: bytearray, draws: random.Random) -> None:
    size = draws.choice(
        [
            *(b"%011o\0" % number for number in (0, 1, 511, 513, 10**6, 8**11 - 1)),
            b"-0000000001",
            b"\x80" + draws.randbytes(11),
            b"\xff" * 12,
            b"\x80\0\0\0\x7f" + b"\xff" * 7,
        ]
    )
    _rewrite(content, draws.choice(_headers(content)), slice(124, 136), size, draws.random() < 0.8)


def set_hostile_name(content: bytearray, draws: random.Random) -> None:
    _rewrite(content, draws.choice(_headers(content)), slice(0, 100), draws.choice(HOSTILE_NAMES))


def change_type(content: bytearray, draws: random.Random) -> None:
    kind = bytes([draws.choice(b"1234567xgLKSVMD\x00\xff")])
    _rewrite(content, draws.choice(_headers(content)), slice(156, 157), kind)


def zero_bytes(content: bytearray, draws: random.Random) -> None:
    at = draws.randrange(len(content))
    count = min(len(content) - at, draws.choice([10, 512, 4000]))
    content[at : at + count] = bytes(count)


def insert_noise(content: bytearray, draws: random.Random) -> None:
    at = draws.randrange(len(content) // _BLOCK) * _BLOCK
    content[at:at] = draws.randbytes(_BLOCK * draws.choice([1, 2]))


def set_hostile_content(content: bytearray, draws: random.Random) -> None:
    """Replace the content of a file by bombs, deep nesting, bytes that are not text, or nothing."""
    at = draws.choice(_headers(content))
    size = _size(content, at)
    body = draws.choice(
        [
            b"",
            b"\xff\xfe\xfa",
            b"\0" * 100,
            b"[" * 100_000,
            b'{"re_caption": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
            b'{"re_caption": "\\ud800", "label": 1' + b"0" * 5_000 + b"}",
            b'{"re_caption": 5}',
            b'{"re_caption": "' + b"long " * 200_000 + b'"}',
            b'["a list"]',
            b'{"re_caption": NaN}',
            bomb_png(60_000, 60_000),
            bomb_png(2**31 - 1, 2**31 - 1),
            b"GIF89a" + draws.randbytes(40),
            b"%PDF-1.4",
        ]
    )
    _rewrite(content, at, slice(124, 136), b"%011o\0" % len(body))
    begin, end = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
    content[begin:end] = body.ljust(-(-len(body) // _BLOCK) * _BLOCK, b"\0")


def bomb_png(width: int, height: int) -> bytes:
    """Return a valid small file whose header gives a huge image."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    )


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits,
    flip_header_bit,
    truncate,
    swap_headers,
    swap_members,
    set_absurd_size,
    set_hostile_name,
    change_type,
    zero_bytes,
    insert_noise,
    set_hostile_content,
)
