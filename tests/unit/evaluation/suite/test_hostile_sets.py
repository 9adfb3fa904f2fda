"""A seeded fuzz of the published files: every change gives one clear error, or a set that can be read."""

import json
import random
import shutil
from pathlib import Path

import pytest
from tests import suite_replicas as replicas
from tests.json_places import random_place

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.suite.config import SetConfig
from clips_pipeline.evaluation.suite.image_set import CountedRecords
from clips_pipeline.evaluation.suite.sets import AbsentSet, open_set

VALUES = (
    None, True, 0, -1, 1e308, "", " ", "x" * 300, "x" * 70_000, "\ud800", "a\0b", "../../x", "/etc/passwd", "..", "C:\\x", ".",
    "a/" * 3_000, [], {}, [[]], {"raw": 1}, "\u202e.jpg", "~", "con\n",
)  # fmt: skip

WRITERS = {
    "karpathy": (replicas.karpathy, "dataset_coco.json"),
    "caption_list": (replicas.caption_list, "test.json"),
    "docci": (replicas.docci, "docci_descriptions.jsonlines"),
    "dci": (replicas.dci, "splits.json"),
    "dci annotation": (replicas.dci, "sa_1.json"),
    "iiw": (replicas.iiw, "data.jsonl"),
    "sharegpt4v": (replicas.sharegpt4v, "share-captioner_coco_lcs_sam_1246k_1107.json"),
    "objectnet": (replicas.objectnet, "folder_to_objectnet_label.json"),
    "sugarcrepe": (replicas.sugarcrepe, "swap_att.json"),
    "sugarcrepe_pp": (replicas.sugarcrepe_pp, "swap_att.json"),
    "winoground": (replicas.winoground, "examples.jsonl"),
}


def error_of(mapping: dict[str, str], name: str) -> str:
    """Read a set; return its error, or nothing."""
    try:
        found = open_set(name, from_mapping(SetConfig, mapping, "set"), Storage())
        if isinstance(found, AbsentSet):
            return ""
        if found.images is not None:
            counted = CountedRecords(found.images)
            assert len(list(counted.read())) == counted.images
        assert len(found.identity) == 64
    except ConfigError as error:
        return str(error)
    return ""


def try_to_read(mapping: dict[str, str]) -> None:
    name = mapping["kind"] if mapping["group"] == "compositionality" else "replica"
    error = error_of(mapping, name)
    assert not error or error.startswith(f"suite.sets.{name}: ")
    assert len(error) < 3_000


@pytest.mark.parametrize("name", WRITERS)
def test_changed_json_gives_one_error_or_a_set(tmp_path: Path, name: str) -> None:
    write, file_name = WRITERS[name]
    mapping = write(tmp_path)
    (file,) = tmp_path.rglob(file_name)
    before = file.read_text()
    lines = file.suffix in (".jsonl", ".jsonlines")
    draws = random.Random(name)  # noqa: S311
    for _ in range(80):
        document = [json.loads(line) for line in before.splitlines()] if lines else json.loads(before)
        for _ in range(draws.choice((1, 1, 3))):
            place, key = random_place(document, draws)
            if draws.random() < 0.2:
                del place[key]
                if not document:
                    break
            else:
                place[key] = draws.choice(VALUES)
        file.write_text("\n".join(map(json.dumps, document)) if lines else json.dumps(document))
        try_to_read(mapping)


@pytest.mark.parametrize("name", [*WRITERS, "mmvp_vlm", "urban1k"])
def test_changed_bytes_give_one_error_or_a_set(tmp_path: Path, name: str) -> None:
    others = {"mmvp_vlm": (replicas.mmvp_vlm, "Questions.csv"), "urban1k": (replicas.urban1k, "3.txt")}
    write, file_name = (WRITERS | others)[name]
    mapping = write(tmp_path)
    (file,) = tmp_path.rglob(file_name)
    before = file.read_bytes()
    draws = random.Random(name)  # noqa: S311
    for _ in range(60):
        content = bytearray(before)
        for _ in range(draws.choice((1, 4, 30))):
            content[draws.randrange(len(content))] = draws.randrange(256)
        if draws.random() < 0.3:
            del content[draws.randrange(len(content)) :]
        file.write_bytes(content)
        try_to_read(mapping)
    file.unlink()
    file.mkdir()
    try_to_read(mapping)
    shutil.rmtree(file)
    file.symlink_to(file)
    try_to_read(mapping)
