"""The published files of SugarCrepe, SugarCrepe++, Winoground and MMVP-VLM.

SugarCrepe     seven files `{"0": {filename, caption, negative_caption}}`, and COCO's val2017 images
SugarCrepe++   five files `[{id, filename, caption, caption2, negative_caption}]`, and the same images
Winoground     examples.jsonl `{image_0, image_1, caption_0, caption_1}`, and images/NAME.png
MMVP-VLM       Questions.csv `Question ID,Type,Statement`, two lines a pair, and `MLLM_VLM Images/TYPE/ID.jpg`
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import CompositionalityConfig
from clips_pipeline.evaluation.published_files import existing_image, read_json_file, read_json_lines, read_text

SUBSETS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
PLUS_SUBSETS = ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
MMVP_IMAGES = "MLLM_VLM Images"
_MMVP_PROMPT = "a photo of {}"


class SugarCrepeEntry(NamedTuple):
    """One entry: its name in the JSON file, the image's file name there and its path, the right and the wrong caption."""

    name: str
    file: str
    image: Path
    right: str
    wrong: str


class TripletEntry(NamedTuple):
    """One entry of SugarCrepe++: as `SugarCrepeEntry`, with two right captions."""

    name: str
    file: str
    image: Path
    right: str
    also_right: str
    wrong: str


class PatternPair(NamedTuple):
    """One pair of MMVP-VLM: its name, its pattern, both images and the text of each."""

    name: str
    pattern: str
    first: Path
    second: Path
    first_text: str
    second_text: str


@dataclass(frozen=True)
class Entries:
    """Entries of the configured sets; images are not opened yet.

    Attributes:
        sugarcrepe: entries by subset; empty if not configured.
        winoground: two images and their captions per entry; empty if not configured.
        sugarcrepe_pp: entries of SugarCrepe++ by subset; empty if not configured.
        mmvp_vlm: pairs of MMVP-VLM; empty if not configured.
    """

    sugarcrepe: dict[str, list[SugarCrepeEntry]] = field(default_factory=dict)
    winoground: list[tuple[Path, Path, str, str]] = field(default_factory=list)
    sugarcrepe_pp: dict[str, list[TripletEntry]] = field(default_factory=dict)
    mmvp_vlm: list[PatternPair] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of entries of all sets."""
        subsets = [len(entries) for of_set in (self.sugarcrepe, self.sugarcrepe_pp) for entries in of_set.values()]
        return sum(subsets) + len(self.winoground) + len(self.mmvp_vlm)

    @property
    def images(self) -> list[Path]:
        """All images, each once."""
        found = [entry.image for of_subset in self.sugarcrepe.values() for entry in of_subset]
        found += [entry.image for of_subset in self.sugarcrepe_pp.values() for entry in of_subset]
        found += [image for entry in self.winoground for image in entry[:2]]
        found += [image for pair in self.mmvp_vlm for image in (pair.first, pair.second)]
        return list(dict.fromkeys(found))


def read_entries(config: CompositionalityConfig) -> Entries:
    """Read the entries of the sets that an evaluation configures.

    Raises:
        ConfigError: a file or an image is missing, or not in the published format; the message names it and the entry.
    """
    sugarcrepe: dict[str, list[SugarCrepeEntry]] = {}
    if config.sugarcrepe is not None and config.sugarcrepe_images is not None:
        sugarcrepe = read_sugarcrepe(Path(config.sugarcrepe), Path(config.sugarcrepe_images)).sugarcrepe
    winoground = [] if config.winoground is None else read_winoground(Path(config.winoground)).winoground
    return Entries(sugarcrepe, winoground)


def read_sugarcrepe(folder: Path, images: Path) -> Entries:
    """Read SugarCrepe's seven files; raises as `read_entries`."""
    return Entries(sugarcrepe={subset: _sugarcrepe_entries(folder / f"{subset}.json", images) for subset in SUBSETS})


def read_sugarcrepe_pp(folder: Path, images: Path) -> Entries:
    """Read SugarCrepe++'s five files; raises as `read_entries`."""
    found = {subset: _triplets(folder / f"{subset}.json", images) for subset in PLUS_SUBSETS}
    return Entries(sugarcrepe_pp=found)


def read_winoground(folder: Path) -> Entries:
    """Read Winoground's examples; raises as `read_entries`."""
    path, found = folder / "examples.jsonl", []
    for where, entry in read_json_lines(path):
        first, second, a, b = _fields(entry, ("image_0", "image_1", "caption_0", "caption_1"), where)
        files = [existing_image(folder / "images", f"{name}.png", where) for name in (first, second)]
        found.append((files[0], files[1], a, b))
    if not found:
        raise ConfigError(f"{path}: has no entries; use the published file of Winoground")
    return Entries(winoground=found)


def read_mmvp_vlm(folder: Path) -> Entries:
    """Read MMVP-VLM's questions; raises as `read_entries`. The text is `a photo of STATEMENT`, as in its evaluation."""
    path = folder / "Questions.csv"
    try:
        # Strict: a quotation mark that is never closed is an error, not the rest of the file.
        rows = list(csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path}: not a CSV file ({error}); use the published file of MMVP-VLM") from None
    rows = [row for row in rows if row]
    pairs, found = rows[1:], []
    if (
        not rows
        or [name.strip() for name in rows[0]] != ["Question ID", "Type", "Statement"]
        or not pairs
        or len(pairs) % 2
    ):
        raise ConfigError(
            f"{path}: expected the columns Question ID, Type, Statement and two lines per pair, found "
            f"{rows[0] if rows else 'nothing'} and {len(pairs)} lines; use the published file of MMVP-VLM"
        )
    for number in range(0, len(pairs), 2):
        where = f"{path}, lines {number + 2} and {number + 3}"
        both = pairs[number : number + 2]
        if any(len(row) != 3 or not row[0].strip().isdecimal() or not row[1] or not row[2].strip() for row in both):
            raise ConfigError(f"{where}: expected a number, a type and a statement in each; use the published file")
        if both[0][1] != both[1][1]:
            raise ConfigError(f"{where}: {both[0][1]!r} and {both[1][1]!r} are not one pattern; use the published file")
        first, second = (existing_image(folder / MMVP_IMAGES, f"{row[1]}/{int(row[0])}.jpg", where) for row in both)
        texts = [_MMVP_PROMPT.format(row[2].strip()) for row in both]
        names = f"{int(both[0][0])}-{int(both[1][0])}"
        found.append(PatternPair(names, both[0][1].strip().lower().replace(" ", "_"), first, second, *texts))
    return Entries(mmvp_vlm=found)


def _sugarcrepe_entries(path: Path, images: Path) -> list[SugarCrepeEntry]:
    found = []
    for name, entry in read_json_file(path, dict).items():
        file, right, wrong = _fields(entry, ("filename", "caption", "negative_caption"), f"{path}, entry {name}")
        found.append(SugarCrepeEntry(name, file, existing_image(images, file, f"{path}, entry {name}"), right, wrong))
    if not found:
        raise ConfigError(f"{path}: has no entries; use the published file of SugarCrepe")
    return found


def _triplets(path: Path, images: Path) -> list[TripletEntry]:
    entries = read_json_file(path, list)
    if not entries:
        raise ConfigError(f"{path}: has no entries; use the published file of SugarCrepe++")
    found = []
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        file, *texts = _fields(entry, ("filename", "caption", "caption2", "negative_caption"), where)
        found.append(TripletEntry(str(number), file, existing_image(images, file, where), *texts))
    return found


def _fields(entry: Any, names: Sequence[str], where: str) -> list[str]:
    values = [entry.get(name) if isinstance(entry, dict) else None for name in names]
    missing = [name for name, value in zip(names, values, strict=True) if not isinstance(value, str) or not value]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    return [str(value) for value in values]
