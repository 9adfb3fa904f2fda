"""Reading of samples from shards, in random access or in order. Does not import torch."""

import json
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits, find_excess
from clips_pipeline.data.shards import caption_questions, records
from clips_pipeline.data.shards.caption_values import (
    SYNTHETIC_LIST_FIELD,
    WEB_LIST_FIELD,
    CaptionTypeError,
    drop_blank,
    parse_captions,
)
from clips_pipeline.data.shards.folder_lock import ReadLock
from clips_pipeline.data.shards.index import ShardEntry, check_shards, load_index
from clips_pipeline.data.shards.records import (
    Caption,
    CaptionerNames,
    Names,
    Record,
    SampleFields,
    Skip,
    captioner_fields,
    field_names,
    is_label,
    parse_score,
)
from clips_pipeline.data.shards.sample_offsets import SplitSpans
from clips_pipeline.data.shards.sample_reader import SampleReader
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.tar_file import BadSampleError, Members, Spans
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.data.shards.writer import SYNTHETIC_FIELD, WEB_FIELD
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.io.json_text import json_depth
from clips_pipeline.text.escapes import decode_byte_escapes

log = logging.getLogger(__name__)

FALLBACK_WEB_FIELD = "org_caption"

_MAX_COPY_TRIES = 8


class ShardSet:
    """Random access to the shards of one split. Can be forked and pickled: every process opens its own files.

    Args:
        folder: folder of `index.json`.
        split: name of the split.
        max_open_files: limit of open files; the least recently used one is closed first.
        remote: cache for shards with a URL.
        check: raises a ConfigError if shards do not match the index; its arguments are those of `check_shards`.

    Raises:
        ConfigError: the index, the split or a matching `spans.bin` is missing; a shard is missing or differs in size
            from the index; a shard is remote and `remote` is None; or `prepare` is replacing the folder.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        max_open_files: int = 16,
        remote: ShardCache | None = None,
        check: Callable[[Sequence[ShardEntry], Path], None] = check_shards,
    ) -> None:
        self._lock: ReadLock | None = ReadLock(folder)
        index = load_index(folder)
        self.entries: tuple[ShardEntry, ...] = index.split(split)
        check(self.entries, folder)
        far = next((shard.path for shard in self.entries if is_remote(shard.path)), None)
        if remote is None and far is not None:
            raise ConfigError(f"{far} is not on this machine; give `remote`, a cache for such shards")
        self.folder, self.version = folder, index.version
        self._spans = SplitSpans(folder, index, split)
        self.fields, self.limits = index.fields, index.limits
        self.max_open_files, self.remote = max_open_files, remote
        self._open: OrderedDict[int, tuple[SampleReader, Spans]] = OrderedDict()

    @property
    def samples(self) -> list[int]:
        """Number of samples of each shard."""
        return [shard.samples for shard in self.entries]

    def read(self, shard: int, row: int, *, image: bool = True) -> Record:
        """Return a sample; its image is not decoded.

        Args:
            shard: number of the shard.
            row: number of the sample in the shard, from 0.
            image: whether to read the image; False gives an image of zero bytes.

        Raises:
            BadSampleError: the sample is incomplete or damaged.
        """
        return parse_sample(self.members(shard, row, image=image), self.fields, limits=self.limits)

    def members(self, shard: int, row: int, *, image: bool = True) -> Members:
        """Return the files of a sample; arguments and errors are those of `read`."""
        tar, spans = self._open_shard(shard)
        begin, end = spans[row].tolist()
        members = tar.members((begin, end), image=image)
        return prefix_key(members, self.entries[shard].path) if self.fields.keys_repeat else members

    def iterate(self, places: range | None = None) -> Iterator[Record]:
        """Yield samples in the order of the index; bad samples are logged and left out.

        Args:
            places: range of sample numbers over all shards; None for all. Bad samples are numbered too.
        """
        ends = list(accumulate(self.samples))
        for place in range(ends[-1] if ends else 0) if places is None else places:
            shard = bisect_right(ends, place)
            try:
                record = self.read(shard, place - ends[shard] + self.samples[shard])
            except Exception as error:
                log.warning("left out: %s", BadSampleError(make_skip(error, f"sample {place}")))
                continue
            yield record
        self.close()

    def prefetch(self, shards: Iterable[int]) -> None:
        """Start downloading the remote ones among these shards in the background."""
        if self.remote is not None:
            self.remote.prefetch([self.entries[shard] for shard in shards if is_remote(self.entries[shard].path)])

    def close(self) -> None:
        """Close all files; the next `read` opens them again."""
        while self._open:
            self._open.popitem()[1][0].close()

    def _open_shard(self, shard: int) -> tuple[SampleReader, Spans]:
        found = self._open.pop(shard, None)
        if found is None:
            while len(self._open) >= self.max_open_files:
                self._open.popitem(last=False)[1][0].close()
            found = self._open_tar(self.entries[shard]), self._spans.shard_spans(shard)
        self._open[shard] = found
        return found

    def _open_tar(self, entry: ShardEntry) -> SampleReader:
        if self.remote is None or not is_remote(entry.path):
            return SampleReader(self.folder / entry.path, self.limits)
        for _ in range(_MAX_COPY_TRIES):
            copy = self.remote.local_copy(entry)
            try:
                return SampleReader(copy, self.limits)
            except BadSampleError as bad:
                # The copy may have been deleted in between to free space; the sample is not bad for that reason.
                fault = bad
        if copy.exists():
            raise fault
        raise ConfigError(
            "cached shards are deleted before they can be read, because too many are read at the same time; raise "
            "storage.cache_gib"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_lock": None}


def eval_samples(folder: Path, split: str, *, remote: ShardCache | None = None) -> Iterator[Record]:
    """Return all samples of a split in index order, images still encoded; bad samples are logged and left out.

    Args:
        folder: folder of `index.json`.
        split: name of the split.
        remote: cache for shards that are not on this machine.

    Raises:
        ConfigError: see `ShardSet`.
    """
    # Not a generator, so that a wrong folder raises here and not at the first sample.
    return ShardSet(folder, split, max_open_files=1, remote=remote).iterate()


def parse_sample(
    members: Members,
    fields: SampleFields,
    *,
    synthetic: tuple[Caption, ...] | None = None,
    web: tuple[str, ...] | None = None,
    limits: SampleLimits = DEFAULT_LIMITS,
) -> Record:
    """Return the record of a sample's files.

    Args:
        members: the files.
        fields: names of the caption fields.
        synthetic: synthetic captions that replace the sample's own.
        web: web captions that replace the sample's own.
        limits: limits on captions and JSON.

    Raises:
        BadSampleError: the image or a caption is missing, empty or too long, a text is not UTF-8, or the JSON is invalid.
    """
    key = members.key
    if members.image is None:
        raise BadSampleError(Skip(records.MISSING_IMAGE, key, "no image in the shard"))
    facts = parse_json(members, limits)
    web = _web_captions(members, facts, fields.web) if web is None else web
    web = tuple(map(decode_byte_escapes, web))
    synthetic = _synthetic_captions(members, facts, fields.synthetic) if synthetic is None else synthetic
    if fields.needed:
        _check_presence(members, facts, fields, web, synthetic)
    for found in (web, synthetic):
        if len(found) > limits.max_captions:
            detail = f"{len(found)} captions of one kind; max_captions is {limits.max_captions}"
            raise BadSampleError(Skip(records.TOO_MANY_CAPTIONS, key, detail))
    for text in (*web, *(caption.text for caption in synthetic)):
        if (excess := find_excess(text, limits)) is not None:
            raise BadSampleError(Skip(excess[0], key, excess[1]))
    captions, label = facts.get("captions"), facts.get("label")
    human_captions = tuple(text for text in captions if isinstance(text, str)) if isinstance(captions, list) else ()
    number = label if is_label(label) else None
    score = None if fields.score is None else parse_score(facts.get(fields.score))
    questions = caption_questions.parse_questions(facts.get(caption_questions.FIELD))
    return Record(
        key, members.image, members.extension, web, synthetic, human_captions, number, score, questions, limits
    )


def prefix_key(members: Members, address: str) -> Members:
    """Return the files of a sample with the name of their shard before the key, for shards that repeat keys.

    Args:
        members: the files.
        address: path or URL of the shard.
    """
    name = address.rpartition("/")[2].removesuffix(".tar").replace(".", "_")
    return replace(members, key=f"{name}/{members.key}")


def parse_json(members: Members, limits: SampleLimits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Return the JSON object of a sample; empty if the sample has no JSON file.

    Args:
        members: the files of the sample.
        limits: limit on the levels of lists and objects.

    Raises:
        BadSampleError: the file is not a JSON object, or has too many levels.
    """
    if members.json is None:
        return {}
    if not members.json:
        raise BadSampleError(Skip(records.EMPTY_FILE, members.key, f"{members.key}.json has 0 bytes"))
    text = _text(members.json, members.key)
    # Counting is fast; most files have fewer brackets than the limit, whatever their order.
    if text.count("{") + text.count("[") > limits.max_json_depth:
        depth = json_depth(text)
        if depth > limits.max_json_depth:
            detail = f"its JSON has {depth} levels; max_json_depth is {limits.max_json_depth}"
            raise BadSampleError(Skip(records.TOO_LARGE, members.key, detail))
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, f"its JSON does not parse: {error}")) from None
    if not isinstance(facts, dict):
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, "its JSON is not an object"))
    return facts


def _check_presence(
    members: Members,
    facts: dict[str, Any],
    fields: SampleFields,
    web: tuple[str, ...],
    synthetic: tuple[Caption, ...],
) -> None:
    """Refuse a sample without a web or without a synthetic caption; a captioner may be missing."""
    key = members.key
    if not any(web) and members.text == b"":
        raise BadSampleError(Skip(records.EMPTY_FILE, key, f"{key}.{WEB_FIELD} has 0 bytes"))
    there = f"; its JSON has: {', '.join(sorted(facts)) or 'nothing'}"[:500]
    if not any(text.strip() for text in web):
        raise BadSampleError(Skip(records.EMPTY_WEB_CAPTION, key, f"nothing under {_shown(fields.web)}{there}"))
    if not any(caption.text.strip() for caption in synthetic):
        detail = f"nothing under {_shown(fields.synthetic)}{there}"
        raise BadSampleError(Skip(records.EMPTY_SYNTHETIC_CAPTION, key, detail))


def _shown(names: CaptionerNames) -> str:
    return " or ".join(repr(name) for _, name in captioner_fields(names))


def _web_captions(members: Members, facts: dict[str, Any], names: Names) -> tuple[str, ...]:
    if names == WEB_FIELD and WEB_LIST_FIELD in facts:
        names = WEB_LIST_FIELD
    found = [caption for name in field_names(names) for caption in _captions(members, facts, name, "")]
    return tuple(caption.text for caption in drop_blank(found))


def _synthetic_captions(members: Members, facts: dict[str, Any], names: CaptionerNames) -> tuple[Caption, ...]:
    if names == SYNTHETIC_FIELD and SYNTHETIC_LIST_FIELD in facts:
        names = SYNTHETIC_LIST_FIELD
    fields = captioner_fields(names)
    found = [caption for captioner, name in fields for caption in _captions(members, facts, name, captioner)]
    return drop_blank(found)


def _captions(members: Members, facts: dict[str, Any], name: str, captioner: str) -> list[Caption]:
    """Return the captions of one field; a field that is missing has none."""
    if name == WEB_FIELD and members.text is not None:
        return [Caption(_text(members.text, members.key), captioner)]
    try:
        found = parse_captions(facts.get(FALLBACK_WEB_FIELD if name == WEB_FIELD else name), captioner)
    except CaptionTypeError as error:
        raise BadSampleError(Skip(records.BAD_RECORD, members.key, f"{name!r} {error}")) from None
    try:
        # JSON can encode lone surrogates, which no tokenizer accepts.
        for caption in found:
            caption.text.encode()
    except UnicodeEncodeError as error:
        raise BadSampleError(Skip(records.NOT_UTF8, members.key, f"{name!r}: {error}")) from None
    return found


def _text(content: bytes, key: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadSampleError(Skip(records.NOT_UTF8, key, str(error))) from None
