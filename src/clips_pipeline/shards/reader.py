"""Samples out of the shards: by place, or all in order. Loads no torch."""

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.shards import records
from clips_pipeline.shards.index import ShardEntry, load_index, shard_problem
from clips_pipeline.shards.records import Record, Skip
from clips_pipeline.shards.tar import BadSampleError, Members, TarFile
from clips_pipeline.shards.writer import SYNTHETIC_FIELD, WEB_FIELD

log = logging.getLogger(__name__)

FALLBACK_WEB_FIELD = "org_caption"


@dataclass(frozen=True)
class SampleFields:
    """Where the captions of a sample stand: `txt` is the file KEY.txt, any other name a field of KEY.json.

    Attributes:
        web: where there is no KEY.txt, `org_caption` of KEY.json stands in for it, as in Recap-DataComp-1B.
        synthetic: the long caption.
    """

    web: str = WEB_FIELD
    synthetic: str = SYNTHETIC_FIELD

    def __post_init__(self) -> None:
        if not self.web or not self.synthetic or self.web == self.synthetic:
            raise ConfigError(f"fields: web {self.web!r} and synthetic {self.synthetic!r} must be two names")


class ShardSet:
    """The shards of one split, read at random. Forks and pickles: every process opens the files for itself.

    Args:
        folder: of `index.json`.
        split: which shards.
        fields: where the captions stand.
        keep_open: files open at the same time; the one used longest ago is closed first.

    Raises:
        ConfigError: no index, no such split, or a shard that is missing or of another size than the index says.
    """

    def __init__(self, folder: Path, split: str, fields: SampleFields | None = None, *, keep_open: int = 16) -> None:
        index = load_index(folder)
        self.shards: tuple[ShardEntry, ...] = index.split(split)
        problems = [problem for shard in self.shards if (problem := shard_problem(shard, folder)) is not None]
        if problems:
            raise ConfigError(
                f"{problems[0]} ({len(problems)} such shards); run `kedro run --pipelines prepare`, or restore the data"
            )
        self.folder, self.fingerprint = folder, index.fingerprint
        self.fields = fields if fields is not None else SampleFields()
        self.keep_open = keep_open
        self._open: OrderedDict[int, TarFile] = OrderedDict()

    @property
    def samples(self) -> list[int]:
        """Number of samples of each shard."""
        return [shard.samples for shard in self.shards]

    def read(self, shard: int, row: int) -> Record:
        """Sample number `row` of a shard; its image is not decoded.

        Raises:
            BadSampleError: it is incomplete or damaged.
        """
        return parse(self._tar(shard).read(row), self.fields)

    def close(self) -> None:
        """Close all files; the next `read` opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _tar(self, shard: int) -> TarFile:
        tar = self._open.pop(shard, None)
        if tar is None:
            while len(self._open) >= self.keep_open:
                self._open.popitem(last=False)[1].close()
            tar = TarFile(self.folder / self.shards[shard].path)
        self._open[shard] = tar
        return tar

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def eval_samples(folder: Path, split: str, fields: SampleFields | None = None) -> Iterator[Record]:
    """All samples of a split in the order of the index, images still encoded; bad ones are left out and logged.

    Args:
        folder: of `index.json`.
        split: which shards.
        fields: where the captions stand.

    Raises:
        ConfigError: as `ShardSet`.
    """
    # Not a generator itself, so that a wrong folder is an error here and not where the first sample is asked for.
    return _in_order(ShardSet(folder, split, fields, keep_open=1))


def parse(members: Members, fields: SampleFields) -> Record:
    """Files of a sample to a record.

    Raises:
        BadSampleError: the image or a caption is missing or empty, or a text is not UTF-8 or not JSON.
    """
    key = members.key
    if members.image is None:
        raise BadSampleError(Skip(records.MISSING_IMAGE, key, "no image in the shard"))
    facts = _facts(members)
    web, synthetic = (_caption(members, facts, name) for name in (fields.web, fields.synthetic))
    if not web.strip():
        raise BadSampleError(Skip(records.EMPTY_WEB_CAPTION, key, f"nothing under {fields.web!r}"))
    if not synthetic.strip():
        raise BadSampleError(Skip(records.EMPTY_SYNTHETIC_CAPTION, key, f"nothing under {fields.synthetic!r}"))
    captions, label = facts.get("captions"), facts.get("label")
    people = tuple(text for text in captions if isinstance(text, str)) if isinstance(captions, list) else ()
    number = label if isinstance(label, int) and not isinstance(label, bool) else None
    return Record(key, members.image, members.extension, web, synthetic, people, number)


def _facts(members: Members) -> dict[str, Any]:
    if members.json is None:
        return {}
    try:
        facts = json.loads(_text(members.json, members.key))
    except ValueError as error:
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, f"its JSON does not parse: {error}")) from None
    if not isinstance(facts, dict):
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, "its JSON is no object"))
    return facts


def _caption(members: Members, facts: dict[str, Any], name: str) -> str:
    if name == WEB_FIELD and members.text is not None:
        return _text(members.text, members.key)
    value = facts.get(FALLBACK_WEB_FIELD if name == WEB_FIELD else name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, f"{name!r} is no text"))
    return value


def _text(content: bytes, key: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadSampleError(Skip(records.NOT_UTF8, key, str(error))) from None


def _in_order(shards: ShardSet) -> Iterator[Record]:
    for shard, count in enumerate(shards.samples):
        for row in range(count):
            try:
                record = shards.read(shard, row)
            except BadSampleError as bad:
                log.warning("left out: %s", bad)
                continue
            yield record
    shards.close()
