"""Images are JPEG, PNG or WebP by content; no decoder reads other files."""

import gzip
import io
import os
import re
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.samples import image_bytes, record

from clips_pipeline.data.images.formats import FORMATS, UnsupportedImageError, is_jpeg, open_image
from clips_pipeline.data.images.thumbnail import make_thumbnail
from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError, train_pixels
from clips_pipeline.data.prepare.validate import validate_record
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.evaluation.inference.embed import open_image as open_whole_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 moveto 40 40 lineto stroke\nshowpage\n%%EOF\n"
FITS = "".join(
    card.ljust(80)
    for card in ("SIMPLE  = T", "BITPIX  = -32", "NAXIS   = 2", "NAXIS1  = 20000", "NAXIS2  = 20000", "END")
).encode().ljust(2880) + bytes(64)
PSD = b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(64)


def written_by_pillow() -> dict[str, bytes]:
    """One file of every format that Pillow writes, except those that are read."""
    Image.init()
    found = {}
    for kind in sorted(set(Image.SAVE) - {*FORMATS, "MPO"}):  # an MPO file is a JPEG with others behind it
        stream = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of formats that a later Pillow drops
                Image.new("1" if kind in ("XBM", "MSP") else "RGB", (64, 64)).save(stream, kind)
        except (OSError, ValueError, KeyError):
            continue  # a writer that needs another mode, or a file by name
        found[kind] = stream.getvalue()
    return found


FOREIGN = {
    "EPS": EPS,
    "FITS": FITS,
    "FITS, gzip": gzip.compress(FITS),
    "PSD": PSD,
    "text": b"not an image",
    **written_by_pillow(),
}


def test_enough_formats_are_tried() -> None:
    assert {"GIF", "TIFF", "BMP", "ICNS", "DDS", "ICO", "PPM", "TGA", "JPEG2000"} <= FOREIGN.keys()


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_other_content_is_a_skip_with_its_reason(name: str, extension: str) -> None:
    found = validate_record(record(1, image=FOREIGN[name], extension=extension))
    assert isinstance(found, Skip)
    assert found.reason == records.UNSUPPORTED_IMAGE
    assert "not a JPEG, PNG or WebP file by its content; convert the file" in found.detail


@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_else_opens_it_either(name: str) -> None:
    content = FOREIGN[name]
    for crop_area in ((1.0, 1.0), (0.4, 1.0)):
        with pytest.raises(UndecodableImageError, match="not a JPEG, PNG or WebP"):
            train_pixels(content, ImageConfig(size=32, crop_area=crop_area), seed=0, epoch=0, key="k")
    with pytest.raises(UndecodableImageError, match="not a JPEG, PNG or WebP"):
        open_whole_image(content)
    with pytest.raises(UnsupportedImageError):
        make_thumbnail(content, 32)


def test_ghostscript_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\ntouch {tmp_path}/started\nexit 1\n')
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for once per process
    with suppress(OSError, subprocess.CalledProcessError), Image.open(io.BytesIO(EPS)) as opened:
        opened.load()
    assert (tmp_path / "started").exists()  # so the file is one that would start it
    (tmp_path / "started").unlink()
    assert isinstance(validate_record(record(1, image=EPS, extension="jpg")), Skip)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_read(kind: str) -> None:
    content = image_bytes(3, kind=kind)
    with open_image(content) as opened:
        assert (opened.format, opened.size) == (kind, (24, 20))
    assert is_jpeg(content) == (kind == "JPEG")
    assert validate_record(record(3, image=content, extension="png")) == (24, 20)  # by content, whatever the name says


def test_images_are_opened_in_one_place(repository: Path) -> None:
    sources = (repository / "src").rglob("*.py")
    found = [path.name for path in sources if re.search(r"\bImage\.open\(|\bImageFile\b", path.read_text())]
    assert found == ["formats.py"]
