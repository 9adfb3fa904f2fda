"""The memory of a loader process has the bound that docs/explanation/loader.md gives, for the worst image within the limits."""

import io
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.data.samples import ListSource, record

from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.prepare.run import prepare

BYTES_PER_PIXEL = 21
FEWER = 2**23

# Limits the address space to what is in use, the documented bound, and 64 MiB for the allocator.
CODE = """
import resource, sys
from pathlib import Path
from clips_pipeline.data.images.transforms import ImageConfig, train_pixels
from clips_pipeline.data.limits import SampleLimits

limits = SampleLimits(max_pixels=int(sys.argv[2]))
config = ImageConfig(size=112, crop_area=eval(sys.argv[3]), color_jitter=0.4, reduced_decoding=False)
small = Path(sys.argv[4]).read_bytes()
train_pixels(small, config, seed=0, epoch=0, key="k")
content = Path(sys.argv[1]).read_bytes()
(used,) = [int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize")]
most = used + int(sys.argv[5]) * limits.max_pixels + 3 * len(content) + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
train_pixels(content, config, seed=0, epoch=0, key="k", limits=limits)
"""


def webp(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(stream, "WEBP", lossless=True, quality=0, method=0)
    return stream.getvalue()


def png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (4 * side + 1)), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(side: int, mode: str) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (side, side)).save(stream, "JPEG", progressive=True, subsampling=0)
    return stream.getvalue()


@pytest.mark.parametrize("crop_area", ["(1.0, 1.0)", "(0.999, 1.0)"], ids=["framing", "crop"])
@pytest.mark.parametrize("kind", ["webp", "png", "jpeg", "cmyk jpeg"])
def test_the_worst_image_at_the_limit(tmp_path: Path, kind: str, crop_area: str) -> None:
    side = int(FEWER**0.5)
    made = {"webp": webp, "png": png}.get(kind)
    content = jpeg(side, "CMYK" if kind == "cmyk jpeg" else "RGB") if made is None else made(side)
    _decode(tmp_path, content, FEWER, crop_area, BYTES_PER_PIXEL)


def test_the_default_limit(tmp_path: Path) -> None:
    most = SampleLimits().max_pixels
    _decode(tmp_path, webp(int(most**0.5)), most, "(0.999, 1.0)", BYTES_PER_PIXEL)


def test_less_memory_is_not_enough(tmp_path: Path) -> None:
    """So the address space is what limits the decoders."""
    with pytest.raises(subprocess.CalledProcessError):
        _decode(tmp_path, webp(int(FEWER**0.5)), FEWER, "(0.999, 1.0)", 1)


EPOCHS = """
import sys
from pathlib import Path
from tests.unit.data.samples import LengthReader
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader

loader = train_loader(Path(sys.argv[1]), "train", LengthReader(), ImageConfig(size=64), global_batch_size=8)
for epoch in range(12):
    loader.dataset.set_epoch(epoch)
    for batch in loader:
        pass
    (kib,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")]
    print(kib)
"""


def test_memory_does_not_grow_over_epochs(tmp_path: Path) -> None:
    samples = [replace(record(number), image=jpeg(200, "RGB"), extension="jpg") for number in range(64)]
    # One sample of a shard cannot be used, as far as its content goes, so that skips are part of it.
    prepare(ListSource({"train": [samples[:32], samples[32:]]}), tmp_path / "shards")
    damage_image(tmp_path / "shards", samples[5].key)
    done = subprocess.run(
        [sys.executable, "-c", EPOCHS, str(tmp_path / "shards")], capture_output=True, text=True, check=True
    )
    kib = [int(line) for line in done.stdout.split()]
    assert len(kib) == 12
    # An epoch decodes 7 MiB of pixels.
    assert kib[-1] - kib[3] < 4 << 10


def damage_image(shards: Path, key: str) -> None:
    """Overwrite the scan of an image in place; the size stays that of the index."""
    file = next(path for path in shards.rglob("*.tar") if key.encode() in path.read_bytes())
    content = bytearray(file.read_bytes())
    begin = content.index(b"\xff\xd8\xff", content.index(key.encode()))
    content[begin : begin + 200] = bytes(200)
    file.write_bytes(content)


def _decode(folder: Path, content: bytes, most: int, crop_area: str, bytes_per_pixel: int) -> None:
    (folder / "large").write_bytes(content)
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    (folder / "small").write_bytes(stream.getvalue())
    arguments = [str(folder / "large"), str(most), crop_area, str(folder / "small"), str(bytes_per_pixel)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, "decode", done.stdout, done.stderr[-2000:])
