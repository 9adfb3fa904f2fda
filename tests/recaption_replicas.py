"""Miniature replicas of the files of docs/how-to/reproduce.md, in their published form, from the photos of `shared/fixtures`.

CC3M as `pixparse/cc3m-wds` has it: shards of img2dataset, whose keys begin at zero in every shard. DreamLIP's CSV file: one row
for each URL, with the web caption and one short and one long caption of each of three models. Evaluation sets as CLIP_benchmark
hosts them.
"""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

CAPTIONERS = ("IB", "SV", "LLA")


@dataclass(frozen=True)
class Photo:
    """A photo and its five human captions."""

    image: bytes
    captions: tuple[str, ...]


def read_photos(fixtures: Path) -> list[Photo]:
    """Read the photos, reduced to 64 pixels so that a test decodes them quickly."""
    found = []
    for entry in json.loads((fixtures / "captions.json").read_text(encoding="utf-8")):
        stream = io.BytesIO()
        with Image.open(fixtures / "images" / entry["image"]) as image:
            image.convert("RGB").resize((64, 64)).save(stream, "JPEG")
        found.append(Photo(stream.getvalue(), tuple(entry["captions"])))
    return found


def url_of(number: int) -> str:
    """Return the URL of a sample; commas and quotes occur in real ones."""
    return f'http://photos.example/{number:05d},"a".jpg'


def conceptual_captions(photos: Sequence[Photo], name: str, shards: int, each: int) -> dict[str, bytes]:
    """Return the shards `NAME-train-0000.tar`, …: KEY.jpg, KEY.json as of img2dataset, KEY.txt."""
    found = {}
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for row in range(each):
            number = shard * each + row
            photo, key = photos[number % len(photos)], f"{row:09d}"
            caption = photo.captions[number // len(photos) % 5]
            # Every sample is another image: a comment at the end of the JPEG.
            image = photo.image[:-2] + b"\xff\xfe\x00\x06%04d" % number + photo.image[-2:]
            facts = {
                "caption": caption,
                "url": url_of(number),
                "key": key,
                "status": "success",
                "error_message": None,
                "width": 64,
                "height": 64,
                "original_width": 640,
                "original_height": 480,
                "exif": "{}",
                "sha256": hashlib.sha256(image).hexdigest(),
            }
            members |= {
                f"{key}.jpg": image,
                f"{key}.json": json.dumps(facts).encode(),
                f"{key}.txt": caption.encode(),
            }
        found[f"{name}-train-{shard:04d}.tar"] = tar_of(members)
    return found


def dreamlip_csv(photos: Sequence[Photo], numbers: Iterable[int]) -> bytes:
    """Return `cc3m_3long_3short_1raw_captions_url.csv` with a row for each of these samples."""
    stream = io.StringIO(newline="")
    kinds = [f"{length}{name}_captions" for name in CAPTIONERS for length in ("short", "long")]
    writer = csv.DictWriter(stream, ["Image Path", "raw_caption", *kinds])
    writer.writeheader()
    for number in numbers:
        captions = photos[number % len(photos)].captions
        row = {"Image Path": url_of(number), "raw_caption": captions[0]}
        for place, name in enumerate(CAPTIONERS):
            sentences = [text.strip().rstrip(".") for text in captions[place:] + captions[:place]]
            row[f"short{name}_captions"] = sentences[0]
            row[f"long{name}_captions"] = (
                ". ".join(sentences) + f'.\nIn the image, {name} sees "{len(sentences)}" facts.'
            )
        writer.writerow(row)
    return stream.getvalue().encode()


def retrieval_set(photos: Sequence[Photo]) -> dict[str, bytes]:
    """Return a retrieval set of CLIP_benchmark: two shards of images with five captions each."""
    files = {"dataset_type.txt": b"retrieval\n", "test/nshards.txt": b"2\n"}
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(shard, len(photos), 2):
            key = f"s{number:07d}"
            members |= {f"{key}.txt": "\n".join(photos[number].captions).encode(), f"{key}.jpg": photos[number].image}
        files[f"test/{shard}.tar"] = tar_of(members)
    return files


def classification_set(photos: Sequence[Photo], classes: Sequence[str]) -> dict[str, bytes]:
    """Return a classification set of CLIP_benchmark: the class of a photo is its number modulo the classes."""
    members: dict[str, bytes] = {}
    for number, photo in enumerate(photos):
        key = f"s{number:07d}"
        members |= {f"{key}.cls": str(number % len(classes)).encode(), f"{key}.jpg": photo.image}
    return {
        "test/nshards.txt": b"1\n",
        "test/0.tar": tar_of(members),
        "classnames.txt": "\n".join(classes).encode() + b"\n",
        "zeroshot_classification_templates.txt": b"a photo of a {c}.\n",
    }


def tar_of(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()
