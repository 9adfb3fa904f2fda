"""Writing of tar shards with webdataset's writer. The same records give the same bytes on every machine."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clips_pipeline.data.shards import caption_questions
from clips_pipeline.data.shards.caption_values import SYNTHETIC_LIST_FIELD, WEB_LIST_FIELD
from clips_pipeline.data.shards.index import ShardEntry, make_shard_entry
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.tar_file import import_webdataset

WEB_FIELD = "txt"
SYNTHETIC_FIELD = "re_caption"

Sample = dict[str, Any]
"""A sample of webdataset: `__key__`, and the content of each file under its extension."""


def make_sample(record: Record) -> Sample:
    """Return the files of a record.

    The first captions are where readers of webdataset's layout expect one; all are added only where there are more, or a
    captioner has a name.
    """
    facts: dict[str, Any] = {SYNTHETIC_FIELD: record.synthetic_caption}
    if len(record.synthetic_captions) > 1 or any(caption.captioner for caption in record.synthetic_captions):
        facts[SYNTHETIC_LIST_FIELD] = [
            {"captioner": captioner, "text": text} for text, captioner in record.synthetic_captions
        ]
    if len(record.web_captions) > 1:
        facts[WEB_LIST_FIELD] = list(record.web_captions)
    if record.captions:
        facts["captions"] = list(record.captions)
    if record.label is not None:
        facts["label"] = record.label
    if record.questions:
        facts[caption_questions.FIELD] = caption_questions.questions_json(record.questions)
    return {
        "__key__": record.key,
        record.extension: record.image,
        WEB_FIELD: record.web_caption.encode(),
        "json": json.dumps(facts, ensure_ascii=False).encode(),
    }


def write_samples(file: Path, samples: Iterable[Sample], path_in_index: str) -> ShardEntry:
    """Write one tar file and flush it to the disk.

    Args:
        file: the tar file; its folder exists.
        samples: complete, validated samples with distinct keys.
        path_in_index: path of the file in its index entry.
    """
    keys = []
    with file.open("wb") as raw:
        # No owner and no time, so that the bytes depend on the records alone. Only a name that is long or not ASCII
        # needs an extended header.
        with import_webdataset().TarWriter(raw, encoder=False, mtime=0, mode=0o444, user="", group="") as writer:
            for sample in samples:
                keys.append(sample["__key__"])
                writer.write(sample)
        raw.flush()
        os.fsync(raw.fileno())
    return make_shard_entry(file, path_in_index, keys)
