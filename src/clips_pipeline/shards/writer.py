"""Samples to tar files in webdataset's layout. The same records give the same bytes, on every machine.

`tarfile` and not webdataset's writer: importing webdataset loads torch (5 s), which preparing data does not need. The
tests read these files with webdataset and webdataset's files with ours.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clips_pipeline.shards.index import ShardEntry, digest_keys
from clips_pipeline.shards.records import Record

WEB_FIELD = "txt"
SYNTHETIC_FIELD = "re_caption"


Files = tuple[str, Iterable[tuple[str, bytes]]]
"""Key of a sample; names and contents of its files."""


def members(record: Record) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of one sample, image first."""
    yield f"{record.key}.{record.extension}", record.image
    yield f"{record.key}.{WEB_FIELD}", record.web_caption.encode()
    facts: dict[str, Any] = {SYNTHETIC_FIELD: record.synthetic_caption}
    if record.captions:
        facts["captions"] = list(record.captions)
    if record.label is not None:
        facts["label"] = record.label
    yield f"{record.key}.json", json.dumps(facts, ensure_ascii=False).encode()


def write_shard(file: Path, records: Iterable[Record], path_in_index: str) -> ShardEntry:
    """Write one tar file and bring it to the disk.

    Args:
        file: the tar file; its folder exists.
        records: complete and checked samples with keys that differ.
        path_in_index: what the entry calls the file.
    """
    return write_files(file, ((record.key, members(record)) for record in records), path_in_index)


def write_files(file: Path, samples: Iterable[Files], path_in_index: str) -> ShardEntry:
    """The same, of samples whose files are made already."""
    keys = []
    # PAX only where a name needs it (long, or not ASCII); else plain ustar, which everything reads.
    with file.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, files in samples:
            keys.append(key)
            for name, content in files:
                # TarInfo's own owner (0) and time (0) make the bytes a function of the records alone.
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.mode = 0o444
                tar.addfile(member, io.BytesIO(content))
        tar.close()
        raw.flush()
        os.fsync(raw.fileno())
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return ShardEntry(path_in_index, len(keys), file.stat().st_size, digest, digest_keys(keys))
