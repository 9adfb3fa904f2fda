"""Limits on pixels, scans and bytes of an image hold before anything is decoded, for every user of the decoders."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.samples import bomb_image, image_bytes, record

from clips_pipeline.data.images import formats
from clips_pipeline.data.images.decode import EncodedImage
from clips_pipeline.data.images.formats import (
    RefusedImageError,
    TooLargeImageError,
    TooManyPixelsError,
    TooManyScansError,
    open_image,
    read_image,
)
from clips_pipeline.data.images.thumbnail import make_thumbnail
from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError, train_pixels
from clips_pipeline.data.limits import PILLOW_PIXELS, SampleLimits
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.evaluation.inference.embed import open_image as open_whole_image


def webp_bomb(width: int, height: int) -> bytes:
    """Return a WebP of 38 bytes: the header of a lossless picture."""
    bits = (width - 1) | (height - 1) << 14
    chunk = b"VP8L" + struct.pack("<I", 17) + b"\x2f" + struct.pack("<I", bits) + bytes(12)
    return b"RIFF" + struct.pack("<I", len(chunk) + 5) + b"WEBP" + chunk + b"\0"


def webp_canvas(width: int, height: int) -> bytes:
    """Return a small WebP whose extended header gives another size; libwebp allocates that one."""
    stream = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    assert content[12:16] == b"VP8X"
    content[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def jpeg(size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    noise = Image.effect_noise(size, 80)
    Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180))).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def with_scans(content: bytes, more: int) -> bytes:
    """Return a progressive JPEG whose last scan, which refines a coefficient, stands there `more` times more."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * more + content[-2:]


USERS: dict[str, Callable[[bytes, SampleLimits], object]] = {
    "open": lambda content, limits: open_image(content, limits),
    "decode": lambda content, limits: EncodedImage(content, limits),
    "thumbnail": lambda content, limits: make_thumbnail(content, 8, limits),
    "crop": lambda content, limits: train_pixels(
        content, ImageConfig(size=16), seed=0, epoch=0, key="k", limits=limits
    ),
    "framing": lambda content, limits: train_pixels(
        content, ImageConfig(size=16, crop_area=(1.0, 1.0)), seed=0, epoch=0, key="k", limits=limits
    ),
    "evaluation": lambda content, limits: open_whole_image(content, limits),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "content",
    [jpeg((200, 100)), jpeg((200, 100), "CMYK"), bomb_image(200, 100), webp_bomb(200, 100), webp_canvas(200, 100)],
    ids=["jpeg", "cmyk", "png", "lossless webp", "webp canvas"],
)
def test_an_image_with_more_pixels_is_refused(user: str, content: bytes) -> None:
    with pytest.raises((TooManyPixelsError, UndecodableImageError), match="200 x 100, max_pixels is 19999") as found:
        USERS[user](content, SampleLimits(max_pixels=19_999))
    assert getattr(found.value, "reason", None) == "too_many_pixels"


@pytest.mark.parametrize("content", [bomb_image(9000, 4000), webp_bomb(9000, 4000), webp_canvas(9000, 4000)], ids=len)
def test_bombs_are_refused_by_default_before_a_decoder_sees_them(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", None)
    found = validate_record(record(1, image=content))
    assert isinstance(found, Skip)
    assert (found.reason, found.detail) == ("too_many_pixels", "9000 x 4000, max_pixels is 33554432")


def test_the_size_that_pillow_finds_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "check_limits", lambda *_: None)  # a header that only Pillow understands
    with pytest.raises(TooManyPixelsError):
        open_image(image_bytes(1), SampleLimits(max_pixels=24 * 20 - 1))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_sizes_are_read_from_the_headers(kind: str, options: dict[str, bool]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (37, 53)).save(stream, kind, **(options if kind == "WEBP" else {}))
    with pytest.raises(TooManyPixelsError, match="37 x 53"):
        formats.check_limits(stream.getvalue(), SampleLimits(max_pixels=37 * 53 - 1))
    formats.check_limits(stream.getvalue(), SampleLimits(max_pixels=37 * 53))


def scans(content: bytes) -> int:
    """Return the number of scans that are counted, by the limit that refuses them."""
    most = next(most for most in range(1, 10_000) if not _refuses_scans(content, most))
    return most if _refuses_scans(content, most - 1) or most == 1 else 0


def _refuses_scans(content: bytes, most: int) -> bool:
    try:
        formats.check_limits(content, replace(SampleLimits(), max_jpeg_scans=most))
    except TooManyScansError:
        return True
    return False


def test_scans_are_counted() -> None:
    assert scans(jpeg()) == 1
    assert scans(jpeg(mode="L")) == 1
    assert scans(jpeg(progressive=True)) == 10
    assert scans(with_scans(jpeg(progressive=True), 30)) == 40
    thumbnail = jpeg((16, 16), progressive=True)
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    for content in (jpeg(), jpeg(progressive=True)):  # a picture in the headers does not count
        assert scans(content[:2] + exif + content[2:]) == scans(content)


@pytest.mark.parametrize("user", USERS)
def test_many_scans_are_refused(user: str) -> None:
    content = with_scans(jpeg(progressive=True), 300)
    with pytest.raises((TooManyScansError, UndecodableImageError), match="310 scans; max_jpeg_scans is 100") as found:
        USERS[user](content, SampleLimits())
    assert getattr(found.value, "reason", None) == "too_many_scans"


def test_scans_times_pixels_are_limited() -> None:
    content = jpeg((64, 48), progressive=True)
    open_image(content, SampleLimits(max_scanned_pixels=64 * 48 * 10))
    with pytest.raises(TooManyScansError, match="10 scans of 64 x 48; max_scanned_pixels is 30719"):
        open_image(content, SampleLimits(max_scanned_pixels=64 * 48 * 10 - 1))


def test_markers_that_are_no_scans_end() -> None:
    """However a header is damaged, it is read once, forwards."""
    for headers in (
        b"\xff\xe0\0\0" * 9,
        b"\xff\xe0\0\1",
        b"\xff" * 10_000,
        b"\xff\0" * 10_000,
        b"\xff\xd0" * 100,
        b"\xff\xda",
        b"\xff\xc0\0\x0b",
        b"\xff\xd9",
    ):
        formats.check_limits(b"\xff\xd8\xff" + headers, SampleLimits())


def test_many_segments_are_refused() -> None:
    comments = b"\xff\xfe\0\2" * 5_000
    with pytest.raises(RefusedImageError, match="more than 5000 segments"):
        open_image(jpeg()[:2] + comments + jpeg()[2:])
    open_image(jpeg()[:2] + comments[: 4 * 4_000] + jpeg()[2:]).close()


@pytest.mark.parametrize("kind", [b"abCd", b"IDAT", b"tEXt"])
def test_many_chunks_are_refused(kind: bytes) -> None:
    content, chunk = image_bytes(1), bytes(4) + kind + struct.pack(">I", zlib.crc32(kind))
    open_image(content[:33] + chunk * 9_000 + content[33:]).close()
    with pytest.raises(RefusedImageError, match="more than 10234 chunks"):
        open_image(content[:33] + chunk * 20_000 + content[33:])
    open_image(content + bytes(1_000_000)).close()  # what follows the end does not count


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    assert read_image(tmp_path / "a.png") == image_bytes(1)
    os.truncate(tmp_path / "a.png", 1 << 40)
    with pytest.raises(TooLargeImageError, match="1099511627776 bytes; max_image_bytes is 67108864"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("user", USERS)
def test_large_files_are_refused(user: str) -> None:
    content = image_bytes(1)
    with pytest.raises((TooLargeImageError, UndecodableImageError), match="max_image_bytes is 10") as found:
        USERS[user](content, SampleLimits(max_image_bytes=10))
    assert getattr(found.value, "reason", None) == "too_large"


def test_ordinary_images_are_below_the_limits() -> None:
    for limits in (SampleLimits(), SampleLimits(max_pixels=PILLOW_PIXELS)):
        for make in (jpeg, partial(jpeg, progressive=True), partial(jpeg, mode="CMYK", progressive=True)):
            for user in USERS.values():
                user(make((640, 480)), limits)
