"""Miniature replicas of evaluation sets, in exactly the form in which each is published."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clips_pipeline.evaluation.metrics.pair_files import MMVP_IMAGES, PLUS_SUBSETS, SUBSETS

COUNT = 6
WORDS = ("red", "green", "blue", "yellow", "white", "black")


def picture(seed: int, suffix: str = "JPEG") -> bytes:
    """Return an image of 16 x 12 px whose colors depend on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix)
    return stream.getvalue()


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed, "PNG" if path.suffix == ".png" else "JPEG"))


def caption(number: int, extra: str = "") -> str:
    return f"A {WORDS[number % 6]} cube beside a {WORDS[(number + 2) % 6]} ball, number {number}.{extra}"


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def urban1k(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`Urban1k/image/N.jpg` and `Urban1k/caption/N.txt`."""
    for number in range(1, count + 1):
        write_picture(folder / "Urban1k" / "image" / f"{number}.jpg", number)
        file = folder / "Urban1k" / "caption" / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(caption(number) + "\n" * (number % 2))
    return {"kind": "urban1k", "group": "long captions", "path": str(folder / "Urban1k")}


def docci(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`docci_descriptions.jsonlines` with all four splits, and `images/`."""
    lines = []
    for split in ("train", "test", "qual_dev", "qual_test"):
        for number in range(count if split == "test" else 2):
            name = f"{split}_{number:05d}"
            entry = {
                "example_id": name,
                "split": split,
                "image_file": f"{name}.jpg",
                "description": caption(number, f" {split}"),
            }
            lines.append(json.dumps(entry, ensure_ascii=False))
            write_picture(folder / "docci" / "images" / f"{name}.jpg", number)
    (folder / "docci" / "docci_descriptions.jsonlines").write_text("\n".join(lines) + "\n")
    return {"kind": "docci", "group": "long captions", "path": str(folder / "docci")}


def dci(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`splits.json`, `annotations/*.json` with masks, and `photos/`."""
    root = folder / "densely_captioned_images"
    names = []
    for number in range(count):
        names.append(f"sa_{number}.json")
        mask = {
            "idx": 0,
            "outer_mask": "iVBORw0KGgo=",
            "mask_quality": 0,
            "label": "cube",
            "caption": "A cube",
            "parent": -1,
        }
        entry = {
            "image": f"sa_{number}.jpg",
            "short_caption": caption(number),
            "mask_data": {"0": mask},
            "mask_keys": ["0"],
            "extra_caption": f"Its floor is {WORDS[number % 6]}." if number else "",
            "summaries": {"base": ["A cube."]},
        }
        write_json(root / "annotations" / names[-1], entry)
        write_picture(root / "photos" / f"sa_{number}.jpg", number)
    write_json(root / "splits.json", {"train": names[:-2], "valid": names[-2:-1], "test": names[-1:]})
    return {"kind": "dci", "group": "long captions", "path": str(root), "split": "all"}


def iiw(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`IIW-400/data.jsonl`, and DOCCI's `images_aar/`."""
    lines = []
    for number in range(count):
        key = f"aar_test_{4600 + number:05d}"
        box = {"label": "Cube", "description": "A cube.", "normalized_coords": ["998", "0", "1", "999"]}
        entry = {
            "IIW": caption(number),
            "IIW-P5B": "A ball.",
            "iiw-human-sxs-gpt4v": {"metrics/Specificity": "Neutral"},
            "image/key": key,
            "objects": [box],
        }
        lines.append(json.dumps(entry))
        write_picture(folder / "docci" / "images_aar" / f"{key}.jpg", number)
    file = folder / "imageinwords" / "datasets" / "IIW-400" / "data.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")
    images = str(folder / "docci" / "images_aar")
    return {"kind": "iiw", "group": "long captions", "path": str(file.parent), "images_path": images}


def sharegpt4v(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """The JSON list of conversations, and the images below `data/`."""
    entries = []
    for number in range(count):
        name = f"sam/images/sa_{number}.jpg"
        turns = [
            {"from": "human", "value": "<image>\nWhat do you see happening in this image?"},
            {"from": "gpt", "value": caption(number, "\nThe rest is dark.")},
        ]
        entries.append({"id": f"sa_{number}", "image": name, "conversations": turns})
        write_picture(folder / "ShareGPT4V" / "data" / name, number)
    file = folder / "ShareGPT4V" / "share-captioner_coco_lcs_sam_1246k_1107.json"
    write_json(file, entries)
    images = str(folder / "ShareGPT4V" / "data")
    return {"kind": "sharegpt4v", "group": "long captions", "path": str(file), "images_path": images}


def caption_list(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`[{"image", "caption"}]` with one text or several, as in FLAIR's and ALBEF's folders of data."""
    entries = []
    for number in range(count):
        several = [caption(number), caption(number, " Again.")]
        entries.append({"image": f"images/{number}.jpg", "caption": several if number % 2 else several[0]})
        write_picture(folder / "listed" / "images" / f"{number}.jpg", number)
    write_json(folder / "listed" / "test.json", entries)
    root = folder / "listed"
    return {"kind": "caption_list", "group": "long captions", "path": str(root / "test.json"), "images_path": str(root)}


def karpathy(folder: Path, count: int = COUNT, dataset: str = "coco") -> dict[str, Any]:
    """`dataset_coco.json` with folders, or `dataset_flickr30k.json` without."""
    images, sentence = [], 0
    for split in ("train", "restval", "test", "val"):
        for number in range(count if split == "test" else 1):
            stem = f"COCO_val2014_{number:012d}" if dataset == "coco" else f"{1000 + number}"
            name = f"{stem}_{split}.jpg"
            texts = [caption(number, f" Sentence {one}.") for one in range(5 + (dataset == "coco" and number == 0))]
            sentences = [
                {"raw": text, "tokens": text.lower().split(), "imgid": number, "sentid": sentence + one}
                for one, text in enumerate(texts)
            ]
            entry = {"filename": name, "imgid": number, "split": split, "sentences": sentences, "sentids": [sentence]}
            place = folder / "images"
            if dataset == "coco":
                entry |= {"filepath": "val2014", "cocoid": number}
                place /= "val2014"
            images.append(entry)
            sentence += len(texts)
            if split == "test":
                write_picture(place / name, number)
    write_json(folder / f"dataset_{dataset}.json", {"images": images, "dataset": dataset})
    path, images_path = str(folder / f"dataset_{dataset}.json"), str(folder / "images")
    return {"kind": "karpathy", "group": "retrieval", "path": path, "images_path": images_path}


def clip_benchmark(
    folder: Path, labels: Sequence[int] | None = None, classes: Sequence[str] = (), count: int = COUNT
) -> dict[str, Any]:
    """Tar shards as CLIP_benchmark's webdataset_builder writes them: captions, or class numbers."""
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for number in range(shard, count, 2):
                key = f"s{number:07d}"
                text = f"{caption(number)}\n{caption(number, ' Once more.')}" if labels is None else str(labels[number])
                members = {
                    f"{key}.{'txt' if labels is None else 'cls'}": text.encode(),
                    f"{key}.webp": picture(number, "WEBP"),
                }
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("2\n")
    if labels is None:
        (folder / "dataset_type.txt").write_text("retrieval\n")
    else:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na drawing of a {c}.\n")
    return {"kind": "clip_benchmark", "group": "VTAB" if labels else "retrieval", "path": str(folder)}


def class_folders(folder: Path, names: Mapping[str, int], suffix: str = ".JPEG") -> dict[str, Any]:
    """One folder per class with this many images, by WordNet id or by number."""
    for seed, (name, count) in enumerate(names.items()):
        for number in range(count):
            write_picture(folder / name / f"{name}_{number}{suffix}", 10 * seed + number)
    (folder / "README.txt").write_text("ImageNet")
    return {"kind": "class_folders", "group": "zero-shot", "path": str(folder)}


def objectnet(folder: Path) -> dict[str, Any]:
    """`objectnet-1.0` with both mappings; one of four folders is no class of ImageNet."""
    root = folder / "objectnet-1.0"
    labels = {
        "air_freshener": "Air freshener",
        "alarm_clock": "Alarm clock",
        "backpack": "Backpack",
        "bottle_cap": "Bottle cap",
    }
    write_json(root / "mappings" / "folder_to_objectnet_label.json", labels)
    shared = {
        "Backpack": "backpack, back pack",
        "Alarm clock": "digital clock; analog clock",
        "Bottle cap": "bottlecap",
    }
    write_json(root / "mappings" / "objectnet_to_imagenet_1k.json", shared)
    for seed, name in enumerate(labels):
        for number in range(2):
            write_picture(root / "images" / name / f"{name}{number}.png", 10 * seed + number)
    return {"kind": "objectnet", "group": "zero-shot", "path": str(root)}


def _coco_images(folder: Path) -> Path:
    for number in range(COUNT):
        write_picture(folder / "val2017" / f"{number:012d}.jpg", number)
    return folder / "val2017"


def sugarcrepe(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """Seven JSON objects by number."""
    images = _coco_images(folder)
    for subset in SUBSETS:
        entries = {
            str(number): {
                "filename": f"{number % COUNT:012d}.jpg",
                "caption": caption(number, f" {subset}"),
                "negative_caption": caption(number + 1, f" {subset}"),
            }
            for number in range(count)
        }
        write_json(folder / "sugar-crepe" / "data" / f"{subset}.json", entries)
    path = str(folder / "sugar-crepe" / "data")
    return {"kind": "sugarcrepe", "group": "compositionality", "path": path, "images_path": str(images)}


def sugarcrepe_pp(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """Five JSON lists."""
    images = _coco_images(folder)
    for subset in PLUS_SUBSETS:
        entries = [
            {
                "id": number,
                "filename": f"{number % COUNT:012d}.jpg",
                "caption": caption(number, f" {subset}"),
                "caption2": f"Number {number}: beside a ball there is a {WORDS[number % 6]} cube, {subset}.",
                "negative_caption": caption(number + 1, f" {subset}"),
            }
            for number in range(count)
        ]
        write_json(folder / "scpp" / "data" / f"{subset}.json", entries)
    path = str(folder / "scpp" / "data")
    return {"kind": "sugarcrepe_pp", "group": "compositionality", "path": path, "images_path": str(images)}


def winoground(folder: Path, count: int = COUNT) -> dict[str, Any]:
    """`examples.jsonl` and `images/`."""
    lines = []
    for number in range(count):
        for side in range(2):
            write_picture(folder / "winoground" / "images" / f"ex_{number}_img_{side}.png", 10 * number + side)
        entry = {
            "id": number,
            "image_0": f"ex_{number}_img_0",
            "image_1": f"ex_{number}_img_1",
            "caption_0": caption(number),
            "caption_1": caption(number + 1),
            "tag": "Object",
            "secondary_tag": "",
            "num_main_preds": 1,
            "collapsed_tag": "Object",
        }
        lines.append(json.dumps(entry))
    (folder / "winoground" / "examples.jsonl").write_text("\n".join(lines) + "\n")
    return {"kind": "winoground", "group": "compositionality", "path": str(folder / "winoground")}


def mmvp_vlm(
    folder: Path, patterns: Sequence[str] = ("Orientation", "Camera Perspective"), pairs: int = 3
) -> dict[str, Any]:
    """`Questions.csv` and `MLLM_VLM Images/PATTERN/N.jpg`."""
    lines, number = ["Question ID,Type,Statement"], 0
    for pattern in patterns:
        for _ in range(2 * pairs):
            number += 1
            write_picture(folder / "MMVP_VLM" / MMVP_IMAGES / pattern / f"{number}.jpg", number)
            quoted = number % 2
            lines.append(
                f'{number},{pattern},"a {WORDS[number % 6]} cube, seen from above"'
                if quoted
                else f"{number},{pattern},a {WORDS[number % 6]} cube"
            )
    (folder / "MMVP_VLM" / "Questions.csv").write_text("\n".join(lines) + "\n")
    return {"kind": "mmvp_vlm", "group": "compositionality", "path": str(folder / "MMVP_VLM")}
