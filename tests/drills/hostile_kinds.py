"""Shards with structured hostility: in each, two good samples and one that was made to harm."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image
from tests.drills.mutations import HOSTILE_NAMES, bomb_png
from tests.unit.data.images.test_formats import FOREIGN
from tests.unit.data.samples import image_bytes, record
from tests.unit.data.shards.test_hostile_headers import HOSTILE as HEADERS
from tests.unit.data.shards.test_hostile_headers import header

from clips_pipeline.data.shards.writer import make_sample

BLOCK = 512
Files = list[tuple[str, bytes]]
MARKS = "a" + "\u0301\u0327\u0323" * 27_000
"""80,000 combining marks after one letter: normalization that sorts them is quadratic."""


@dataclass(frozen=True)
class HostileShard:
    """A shard of one kind.

    Attributes:
        name: what is hostile in it.
        content: the tar file.
        keys: keys of the samples in it.
        good: those of them that must be used.
        harmless: whether the third sample may be used, too.
    """

    name: str
    content: bytes
    keys: tuple[str, ...]
    good: tuple[str, ...]
    harmless: bool = False


def files_of(number: int, key: str, **changes: object) -> Files:
    """Return the files of a good sample, with other content where `changes` has an ending."""
    made: dict[str, object] = {
        end: body for end, body in make_sample(record(number, key=key)).items() if end != "__key__"
    }
    made |= changes
    return [(f"{key}.{end}", bytes(body)) for end, body in made.items()]  # type: ignore[call-overload]


def tar_of(files: Files) -> bytes:
    """Return a tar file with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in files:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return stream.getvalue()


def hostile_shards() -> Iterator[HostileShard]:
    """Yield one shard of each kind."""
    number = 0
    for kinds, harmless in ((_HARMFUL, False), (_ODD, True)):
        for name, files in kinds.items():
            keys = tuple(f"h{number:03d}{part}" for part in "abx")
            good = [files_of(3 * number + place, key) for place, key in enumerate(keys[:2])]
            bad = files(keys[2])
            yield HostileShard(name, tar_of(good[0] + bad + good[1]), keys, keys[:2], harmless)
            number += 1
    for name, (bad_header, _) in HEADERS.items():
        keys = tuple(f"h{number:03d}{part}" for part in "ab")
        whole = tar_of(files_of(3 * number, keys[0]) + files_of(3 * number + 1, keys[1])).rstrip(b"\0")
        content = whole + bytes(-len(whole) % BLOCK) + bad_header + bytes(2 * BLOCK)
        yield HostileShard(f"header: {name}", content, keys, keys)
        number += 1
    keys = tuple(f"h{number:03d}x{place:03d}" for place in range(300))
    by_ending = sorted(
        (file for place, key in enumerate(keys) for file in files_of(place, key)), key=lambda f: f[0].rpartition(".")[2]
    )
    yield HostileShard("sorted by ending", tar_of(by_ending), keys, (), harmless=True)


def _image(body: bytes, ending: str = "png") -> Callable[[str], Files]:
    def files(key: str) -> Files:
        made = [(name, content) for name, content in files_of(7, key) if not name.endswith(".png")]
        return [(f"{key}.{ending}", body), *made]

    return files


def _text(ending: str, body: bytes | str) -> Callable[[str], Files]:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    return lambda key: files_of(7, key, **{ending: content})


def _facts(**facts: str) -> Callable[[str], Files]:
    """Return files whose JSON has these values, given as JSON."""
    known = {"re_caption": '"Long. And more."'} | facts
    body = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in known.items()) + "}"
    return _text("json", body)


def solid_webp(width: int, height: int) -> bytes:
    """Return a lossless WebP of one color: some 30 bytes, whatever its size."""
    bits, place = 0, 0
    # Size, no alpha, version 0; no transform, no color cache, no meta codes; five codes of one symbol, 0, each.
    fields = [(width - 1, 14), (height - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1), *[(1, 4)] * 5]
    for value, count in fields:
        bits |= value << place
        place += count
    data = b"\x2f" + bits.to_bytes(-(-place // 8) + 2, "little")
    data += bytes(len(data) % 2)
    return b"RIFF" + (len(data) + 12).to_bytes(4, "little") + b"WEBPVP8L" + len(data).to_bytes(4, "little") + data


def many_scans(scans: int) -> bytes:
    """Return a small progressive JPEG that repeats its last scan."""
    stream = io.BytesIO()
    Image.effect_noise((256, 256), 60).convert("RGB").save(stream, "JPEG", progressive=True, quality=80)
    whole = stream.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def _many_comments(count: int) -> bytes:
    whole = image_bytes(3, kind="JPEG")
    return whole[:2] + b"\xff\xfe\x00\x03x" * count + whole[2:]


_DEEP = "[" * 100_000
_HARMFUL: dict[str, Callable[[str], Files]] = {
    **{f"{name} named .png": _image(body) for name, body in FOREIGN.items()},
    "EPS named .jpg": _image(FOREIGN["EPS"], "jpg"),
    "gzip of an image": _image(gzip.compress(image_bytes(1))),
    "PNG of 3.6 gigapixels": _image(bomb_png(60_000, 60_000)),
    "PNG of 2^62 pixels": _image(bomb_png(2**31 - 1, 2**31 - 1)),
    "PNG of no pixels": _image(bomb_png(0, 10)),
    "WebP of 268 megapixels in 30 bytes": _image(solid_webp(16_383, 16_383), "webp"),
    "JPEG that ends after its header": _image(image_bytes(1, kind="JPEG")[:200], "jpg"),
    "empty image": _image(b""),
    "caption that is not UTF-8": _text("txt", b"\xff\xfe caption"),
    "caption of nothing": _text("txt", b" \n\t"),
    "JSON nested 100,000 deep": _text("json", _DEEP),
    "JSON list": _text("json", '["a"]'),
    "JSON that ends": _text("json", '{"re_caption": "Lo'),
    "JSON of zeros": _text("json", bytes(1_000)),
    "caption that is a number": _facts(re_caption="5"),
    "caption that is deep": _facts(re_caption="[" * 3_000 + "]" * 3_000),
    "captions that are the letters of a text": _facts(re_caption=json.dumps(list("A dog."))),
    "captions in a caption": _facts(re_caption='{"a": {"b": "Long."}}'),
    "a captioner of two lines": _facts(synthetic_captions='[{"captioner": "a\\nb", "text": "Long."}]'),
    "300 synthetic captions": _facts(re_caption=json.dumps(["A caption."] * 300)),
    "300 web captions": _facts(web_captions=json.dumps(["a caption"] * 300)),
    "surrogate in JSON": _facts(re_caption='"\\ud800 lone"'),
    "label of 5,000 digits": _facts(label="9" * 5_000),
    "PNG of 64 MiB": _image(image_bytes(1) + bytes(2**26)),
    "JSON of 100 levels": _facts(more="[" * 100 + "]" * 100),
    "300 human captions": _facts(captions=json.dumps(["a caption"] * 300)),
    "JPEG with 310 scans": _image(many_scans(300), "jpg"),
    "80,000 combining marks": _text("txt", MARKS),
    "80,000 combining marks in the long caption": _facts(re_caption=json.dumps(MARKS)),
    "a word of 20,000 letters": _text("txt", "x" * 20_000),
    "a caption of 1 MB": _text("txt", "long word " * 100_000),
    "20,000 sentences": _facts(re_caption=json.dumps("A b. " * 20_000)),
    "JSON of 2 MB": _facts(more=json.dumps("y" * 2_000_000)),
}
_ODD: dict[str, Callable[[str], Files]] = {
    "JPEG with 60,000 comments": _image(_many_comments(60_000), "jpg"),
    "JPEG with 60 scans": _image(many_scans(50), "jpg"),
    "30,000 combining marks in three words": _text("txt", " ".join([MARKS[:9_990]] * 3)),
    "words of 9,000 letters": _facts(re_caption=json.dumps(" ".join(["x" * 9_000] * 7))),
    "zero-width letters": _text("txt", "\u200b\u200d\ufeff" * 5_000 + "a"),
    "direction marks": _text("txt", "\u202e\u2066 caption \u2069"),
    "escape codes": _text("txt", "\x1b[31m red \x1b]8;;http://example.org\x07link"),
    "markup": _text("txt", "[/b] [link=x] <script>alert(1)</script> {{ 7 * 7 }} %s {0}"),
    "HTML in the long caption": _facts(re_caption='"<img src=x onerror=alert(1)>"'),
    "a list as a caption": _facts(re_caption=json.dumps("['A dog.', 'Two.']")),
    "100 captioners with odd names": _facts(
        re_caption=json.dumps({f"<b>{{{{ {number} }}}}": f"Caption {number}." for number in range(100)})
    ),
    "blank captions among others": _facts(re_caption='["", " ", "Long.", "\\u200b", "..."]'),
    "label of 400 digits": _facts(label="9" * 400),
    "negative label": _facts(label="-1"),
    "label that is a text": _facts(label='"1"'),
    "score of 400 digits": _facts(score="9" * 400),
    "score of infinity": _facts(score="1e999"),
    "score of NaN": _facts(score="NaN"),
    "key that occurs twice in JSON": _text("json", '{"re_caption": "One. Two.", "re_caption": "Three. Four."}'),
    **{
        f"name {name[:20]!r}": (lambda key, name=name: [(name.decode("utf-8", "surrogateescape"), b"content")])  # type: ignore[misc]
        for name in HOSTILE_NAMES
    },
}


def hostile_members() -> bytes:
    """Return a tar with one good sample among links, devices, a sparse file and a file said to have 8 GiB."""
    files = files_of(5, "good")
    whole = tar_of(files).rstrip(b"\0")
    content = whole + bytes(-len(whole) % BLOCK)
    for kind, name in ((b"1", b"hard.png"), (b"2", b"soft.png"), (b"3", b"device.png"), (b"6", b"fifo.png")):
        made = bytearray(header(kind, b"00000000000", name))
        made[157 : 157 + 11] = b"/etc/passwd"
        made[148:156] = b" " * 8
        made[148:156] = b"%06o\0 " % sum(made)
        content += bytes(made)
    return content + header(b"S", b"00000000000", b"sparse.png") + header(b"0", b"77777777777", b"large.png")
