"""New synthetic captions by a trained captioner for all samples of shards or folders.

The result is a folder:

    captions.parquet   key, re_caption, sha256: a table that `prepare.source.recaption` joins by `key` or `sha256`
    shards/NNNNN.tar   the same samples with the new caption in KEY.json; other files and fields are unchanged
    recaption.json     model, decoding, counts, fingerprint
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clips_pipeline import formats
from clips_pipeline.batch_inference.config import RecaptionRunConfig
from clips_pipeline.batch_inference.inputs import Inputs, Item
from clips_pipeline.batch_inference.parts import ImageReader, Part, PartResult, check_results, open_parts
from clips_pipeline.batch_inference.ranks import run_ranks
from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.caption_values import SYNTHETIC_LIST_FIELD
from clips_pipeline.data.shards.reader import parse_json
from clips_pipeline.data.shards.records import Skip
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.shards.writer import SYNTHETIC_FIELD, WEB_FIELD, Sample, write_samples
from clips_pipeline.evaluation.inference.caption_decoding import Decoding, write_captions
from clips_pipeline.evaluation.inference.embed import Embedder, iterate_batches
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_config
from clips_pipeline.io.atomic import link_or_copy, replace_file
from clips_pipeline.io.digests import json_sha256
from clips_pipeline.io.file_lock import lock_target
from clips_pipeline.io.terminal import shown_path

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TABLE_FILE = "captions.parquet"
FACTS_FILE = "recaption.json"
SHARDS_FOLDER = "shards"

EMPTY_CAPTION = "empty_caption"
"""The captioner wrote nothing."""

_ROWS_AT_A_TIME = 1_024


@dataclass(frozen=True)
class CaptionWork:
    """See `ranks.Work`."""

    model: Path
    decoding: Decoding
    beam_width: int
    field: str
    shards: bool
    batch_size: int
    name: str = "recaption"
    unit: str = "captions"

    def try_batch(self, embedder: Embedder, items: Sequence[Item], images: Tensor) -> None:
        """See `ranks.Work`."""
        self._captions(embedder, items, images)

    def run(self, embedder: Embedder, part: Part) -> None:
        """See `ranks.Work`."""
        reader = ImageReader(part.task, embedder)
        rows: list[dict[str, str | None]] = []
        samples = self._samples(embedder, reader, rows)
        if self.shards:
            with replace_file(part.shard, sync=True) as temporary:
                write_samples(temporary, samples, part.shard.name)
        else:
            for _ in samples:
                pass
        _write_rows(part.table, rows)
        part.save(PartResult(len(rows), len(rows), dict(reader.skipped), reader.examples))

    def _samples(self, embedder: Embedder, reader: ImageReader, rows: list[dict[str, str | None]]) -> Iterator[Sample]:
        """Yield the samples with their new captions, and add a row of the table for each."""
        for batch in iterate_batches(self._parsed(reader), self.batch_size):
            items = [item for item, _, _ in batch]
            captions = self._captions(embedder, items, torch.stack([image for _, image, _ in batch]))
            for (item, _, facts), caption in zip(batch, captions, strict=True):
                if not caption.strip():
                    reader.skip(Skip(EMPTY_CAPTION, item.record.key, "the captioner wrote nothing"))
                    continue
                sha256 = facts.get("sha256")
                rows.append(
                    {
                        "key": item.record.key.rpartition("/")[2],
                        "re_caption": caption,
                        "sha256": sha256 if isinstance(sha256, str) and sha256.isascii() else None,
                    }
                )
                yield _with_caption(item, facts, self.field, caption)

    def _parsed(self, reader: ImageReader) -> Iterator[tuple[Item, Tensor, dict[str, Any]]]:
        for item, image in reader.read():
            try:
                yield item, image, parse_json(item.members, item.record.limits)
            except BadSampleError as bad:
                reader.skip(bad.skip)

    def _captions(self, embedder: Embedder, items: Sequence[Item], images: Tensor) -> list[str]:
        web = [item.record.web_caption for item in items]
        return write_captions(
            embedder.model,
            images.to(embedder.device),
            web,
            embedder.tokenizer,
            decoding=self.decoding,
            width=self.beam_width,
        )


def recaption(inputs: Inputs, model: Path, config: RecaptionRunConfig, out: Path) -> Path:
    """Write the folder, unless it is up to date. Finished parts of a run that was killed are used.

    Args:
        inputs: samples to read.
        model: folder of a model with a captioner.
        config: parameters.
        out: the folder; replaced if it holds the captions of other data or parameters.

    Returns:
        `out`.

    Raises:
        ConfigError: the model has no captioner, or none for this decoding; too many samples are skipped, or there is none.
        OSError: the disk is full; finished parts are kept, and the folder is not changed.
    """
    digest = model_digest(model)
    captioner = load_config(model)[0].captioner
    if captioner is None:
        raise ConfigError(
            f"recaption.model: {model}: has no captioner; give a model of train.method clips, coca or captioning"
        )
    if config.decoding == "parallel" and captioner.inputs != "queries":
        raise ConfigError(
            "recaption.decoding: 'parallel' needs a captioner that predicts all words at once (method clips), and this one is "
            "of method coca; give beam"
        )
    facts = {
        "model": digest,
        "inputs": inputs.fingerprint,
        "decoding": config.decoding,
        "beam_width": config.beam_width if config.decoding == "beam" else None,
        "field": config.synthetic_field,
        "shards": config.shards,
        "batch_size": config.batch_size,
        "format": formats.EMBEDDINGS,
    }
    fingerprint = json_sha256(facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with lock_target(out):
        if _before(out).is_dir() and not out.exists():  # killed between the two renames
            _before(out).rename(out)
        _refuse_other_files(out)
        if _is_current(out, fingerprint):
            log.info("%s: up to date, nothing to do", shown_path(out))
            return out
        work_folder = out.with_name(f".{out.name}.parts")
        parts = open_parts(inputs.tasks, work_folder, fingerprint)
        work = CaptionWork(
            model, config.decoding, config.beam_width, config.synthetic_field, config.shards, config.batch_size
        )
        run_ranks(work, parts, device=config.device, processes=config.processes)
        total = check_results([part.load() for part in parts], config.max_skipped_fraction, "recaption")
        counts = {"samples": total.used, "skipped": dict(total.skipped), "fingerprint": fingerprint}
        _publish(parts, out, {**facts, **counts}, config.shards)
        shutil.rmtree(work_folder, ignore_errors=True)
    log.info("%s: %d captions by model %s", shown_path(out), total.used, digest[:12])
    return out


def _publish(parts: Sequence[Part], out: Path, facts: dict[str, Any], shards: bool) -> None:
    """Build the folder from the finished parts and put it in the place of the old one."""
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / SHARDS_FOLDER if shards else new).mkdir(parents=True)
    _merge_rows([part.table for part in parts], new / TABLE_FILE, str(facts["model"]))
    _warn_of_repeated_keys(new / TABLE_FILE, out)
    if shards:
        full = [part for part in parts if part.load().rows]
        for number, part in enumerate(full):
            # A second name for the same bytes: if this process is killed here, the part is still done.
            link_or_copy(part.shard, new / SHARDS_FOLDER / f"{number:05d}.tar")
    (new / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")
    before = _before(out)
    shutil.rmtree(before, ignore_errors=True)
    if out.exists():
        out.rename(before)
    new.rename(out)
    shutil.rmtree(before, ignore_errors=True)


def _before(out: Path) -> Path:
    """Return the path of the old folder while it is replaced."""
    return out.with_name(f".{out.name}.before")


def _with_caption(item: Item, facts: dict[str, Any], field: str, caption: str) -> Sample:
    """Return the files of a sample with another synthetic caption."""
    members = item.members
    files = {members.extension: members.image, WEB_FIELD: members.text, "cls": members.cls}
    others = facts if field != SYNTHETIC_FIELD else {k: v for k, v in facts.items() if k != SYNTHETIC_LIST_FIELD}
    json_text = json.dumps({**others, field: caption}, ensure_ascii=False)
    return {
        "__key__": members.key,
        **{ending: content for ending, content in files.items() if content is not None},
        # JSON can encode lone surrogates, which UTF-8 cannot.
        "json": json_text.encode("utf-8", "replace"),
    }


def _schema(model: str = "") -> "pa.Schema":
    import pyarrow as pa

    columns = [pa.field(name, pa.string()) for name in ("key", "re_caption", "sha256")]
    return pa.schema(columns, metadata={b"clips_pipeline.captions": json.dumps({"model": model}).encode()})


def _write_rows(file: Path, rows: Sequence[dict[str, str | None]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replace_file(file, sync=True) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema()), temporary, compression="zstd")


def _merge_rows(parts: Sequence[Path], file: Path, model: str) -> None:
    """Write one table of several in bounded memory."""
    import pyarrow.parquet as pq

    schema = _schema(model)
    with replace_file(file, sync=True) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as opened:
                for batch in opened.iter_batches(_ROWS_AT_A_TIME):
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _warn_of_repeated_keys(table: Path, out: Path) -> None:
    """Warn where a join by key gives several images the same caption, as for two files of one name in two folders."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    keys = pq.read_table(table, columns=["key"])["key"]
    repeated = len(keys) - pc.count_distinct(keys).as_py()
    if repeated:
        log.warning(
            "%s: %d of %d keys are repeated, and a join by key gives their images the first caption; use the shards, or join by "
            "sha256",
            out / TABLE_FILE,
            repeated,
            len(keys),
        )


def _refuse_other_files(out: Path) -> None:
    """Refuse to replace a folder that this pipeline did not make."""
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS_FILE).is_file():
        raise ConfigError(f"{out}: holds files that recaption did not make; move them away")


def _is_current(out: Path, fingerprint: str) -> bool:
    try:
        found = json.loads((out / FACTS_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("fingerprint") == fingerprint and (out / TABLE_FILE).is_file()
