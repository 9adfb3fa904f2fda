"""One digest of everything that prepared shards depend on: parameters, source and the code that makes them."""

import hashlib
import inspect
import json
from pathlib import Path

from clips_pipeline.config import to_mapping
from clips_pipeline.shards import (
    check,
    drop_task,
    duplicates,
    filters,
    index,
    job_files,
    prepare_task,
    reader,
    records,
    spans,
    statistics,
    tar,
    tar_scan,
    writer,
)
from clips_pipeline.shards.filters import Rules
from clips_pipeline.shards.sources.source import Source
from clips_pipeline.text import escapes

# The loader stands in the same folder, but a change of it must not make all data anew.
_WRITING = (
    check,
    drop_task,
    duplicates,
    escapes,
    filters,
    index,
    job_files,
    prepare_task,
    reader,
    records,
    spans,
    statistics,
    tar,
    tar_scan,
    writer,
)


def fingerprint(source: Source, samples_per_shard: int, rules: Rules) -> str:
    """sha256, hexadecimal. Independent of the number of processes, of the engine, of paths and of the time."""
    facts = {
        "source": source.fingerprint(),
        "samples_per_shard": samples_per_shard,
        "rules": to_mapping(rules),
        "code": {
            f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in _code(source)
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _code(source: Source) -> list[Path]:
    """The files that write shards, and the package of the source (`demo` for the embedded data)."""
    writing = [Path(inspect.getfile(module)) for module in _WRITING]
    package = Path(inspect.getfile(type(source))).parent
    return writing + sorted(package.glob("*.py"))
