"""Decoded pixels equal Pillow's, whichever decoder is used."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.samples import image_bytes

from clips_pipeline.data.images.color import Pixels, to_rgb
from clips_pipeline.data.images.decode import SCALES, EncodedImage
from clips_pipeline.data.images.formats import DECODE_ERRORS, TooManyPixelsError
from clips_pipeline.data.limits import SampleLimits


def _jpeg(size: tuple[int, int] = (203, 117), mode: str = "RGB", **options: Any) -> bytes:
    draws = np.random.default_rng(0)
    coarse = Image.fromarray(draws.integers(0, 256, (9, 12, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    coarse.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _pillow(content: bytes, scale: int) -> Pixels:
    with Image.open(io.BytesIO(content)) as opened:
        if scale > 1:
            opened.draft("RGB", (opened.width // scale, opened.height // scale))
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
    ],
    ids=str,
)
def test_jpegs(options: dict[str, Any], scale: int) -> None:
    content = _jpeg(**options)
    encoded = EncodedImage(content)
    assert (encoded.width, encoded.height, encoded.scales) == (203, 117, SCALES)
    decoded = encoded.decode(scale)
    # simplejpeg does not decode CMYK. Torch warns of read-only arrays.
    assert isinstance(decoded, Image.Image) if options.get("mode") == "CMYK" else decoded.flags.writeable
    pixels = np.asarray(decoded)
    assert pixels.shape == (-(-117 // scale), -(-203 // scale), 3)
    assert np.array_equal(pixels, _pillow(content, scale))


@pytest.mark.parametrize("size", [(8, 8), (16, 15), (31, 64), (9, 70)])
def test_small_jpegs(size: tuple[int, int]) -> None:
    content = _jpeg(size)
    for scale in SCALES:
        assert np.array_equal(EncodedImage(content).decode(scale), _pillow(content, scale))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_other_formats_have_one_scale(mode: str) -> None:
    content = image_bytes(1, mode=mode)
    encoded = EncodedImage(content)
    assert encoded.scales == (1,)
    assert np.array_equal(encoded.decode(), np.asarray(to_rgb(Image.open(io.BytesIO(content)))))


def test_small_faults_fall_back_to_pillow() -> None:
    content = _jpeg()
    # An extra byte before the end marker: libjpeg warns, Pillow accepts it.
    faulty = content[:-2] + b"\x00" + content[-2:]
    assert np.array_equal(EncodedImage(faulty).decode(), _pillow(content, 1))


def test_damage_raises() -> None:
    content = _jpeg()
    for damaged in (b"", b"no image", content[:10], content[: len(content) // 2], content[:-40]):
        with pytest.raises(DECODE_ERRORS):
            EncodedImage(damaged).decode()


@pytest.mark.parametrize("content", [_jpeg(), _jpeg(mode="CMYK"), image_bytes(1, (203, 117))], ids=len)
def test_images_above_the_limit_of_pixels_are_refused(content: bytes) -> None:
    EncodedImage(content, SampleLimits(max_pixels=203 * 117)).decode()
    with pytest.raises(TooManyPixelsError, match="203 x 117, max_pixels is 23750"):
        EncodedImage(content, SampleLimits(max_pixels=203 * 117 - 1))


def test_real_photos(fixtures_dir: Path) -> None:
    for file in sorted((fixtures_dir / "images").iterdir())[:8]:
        for scale in SCALES:
            assert np.array_equal(EncodedImage(file.read_bytes()).decode(scale), _pillow(file.read_bytes(), scale))
