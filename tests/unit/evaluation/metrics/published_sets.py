"""SugarCrepe and Winoground in their published format, with single-color images."""

import json
from pathlib import Path

from PIL import Image

from clips_pipeline.evaluation.config import CompositionalityConfig
from clips_pipeline.evaluation.metrics.pair_files import SUBSETS

COLORS = ("red", "green", "blue", "yellow", "white")


def write_sets(folder: Path) -> CompositionalityConfig:
    """Write five images, entries of every subset (more of the later ones) on these images, and five pairs."""
    images, crepe, pairs = (folder / name for name in ("val2017", "sugarcrepe", "winoground"))
    for made in (images, crepe, pairs / "images"):
        made.mkdir(parents=True)
    for color in COLORS:
        Image.new("RGB", (8, 8), color).save(images / f"{color}.png")
        Image.new("RGB", (8, 4), color).save(pairs / "images" / f"{color}.png")
    for number, subset in enumerate(SUBSETS):
        entries = {
            str(i): {
                "filename": f"{COLORS[(i + number) % 5]}.png",
                "caption": f"a {COLORS[i % 5]} {subset} {i}",
                "negative_caption": f"{number} {COLORS[(i + 1) % 5]} cubes",
            }
            for i in range(3 + number)
        }
        (crepe / f"{subset}.json").write_text(json.dumps(entries))
    lines = [
        {"image_0": a, "image_1": b, "caption_0": f"a {a} cube on a {b} one", "caption_1": f"a {b} cube on a {a} one"}
        for a, b in zip(COLORS, (*COLORS[1:], COLORS[0]), strict=True)
    ]
    (pairs / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return CompositionalityConfig(str(crepe), str(images), str(pairs))
