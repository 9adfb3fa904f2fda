"""Embeddings of all images and texts of shards or folders, as one table (`embeddings.table`)."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clips_pipeline import formats
from clips_pipeline.batch_inference.config import EmbedConfig, Texts
from clips_pipeline.batch_inference.inputs import Inputs, Item
from clips_pipeline.batch_inference.parts import ImageReader, Part, PartResult, check_results, open_parts
from clips_pipeline.batch_inference.ranks import run_ranks
from clips_pipeline.config import ConfigError
from clips_pipeline.embeddings.table import EmbeddingTable, Kind, Rows, TableFacts, merge_tables, write_table
from clips_pipeline.evaluation.inference.embed import Embedder, iterate_batches
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_config
from clips_pipeline.io.digests import json_sha256
from clips_pipeline.io.file_lock import lock_target
from clips_pipeline.io.terminal import shown_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedWork:
    """See `ranks.Work`."""

    model: Path
    facts: TableFacts
    texts: Texts
    batch_size: int
    name: str = "embed"
    unit: str = "images"

    def try_batch(self, embedder: Embedder, items: Sequence[Item], images: Tensor) -> None:
        """See `ranks.Work`."""
        self._rows(embedder, items, images)

    def run(self, embedder: Embedder, part: Part) -> None:
        """See `ranks.Work`."""
        reader = ImageReader(part.task, embedder)
        used = rows = 0
        with write_table(part.table, self.facts, sync=True) as writer:
            for batch in iterate_batches(reader.read(), self.batch_size):
                found = self._rows(embedder, [item for item, _ in batch], torch.stack([image for _, image in batch]))
                writer.add(found)
                used, rows = used + len(batch), rows + len(found)
        part.save(PartResult(used, rows, dict(reader.skipped), reader.examples))

    def _rows(self, embedder: Embedder, items: Sequence[Item], images: Tensor) -> Rows:
        """Return the rows of a batch: each image, followed by its texts."""
        image_BE = embedder.image_batch(images)
        texts = [self._texts_of(item) for item in items]
        flat = [text for of_item in texts for text in of_item]
        text_NE = embedder.texts(flat) if flat else np.zeros((0, image_BE.shape[1]), np.float32)
        keys: list[str] = []
        kinds: list[Kind] = []
        sources: list[str | None] = []
        captions: list[str | None] = []
        vectors: list[Any] = []
        first = 0
        for item, image_E, of_item in zip(items, image_BE, texts, strict=True):
            count = 1 + len(of_item)
            keys += [item.record.key] * count
            kinds += ["image", *["text" for _ in of_item]]  # type: ignore[list-item]  # mypy widens the literal
            sources += [item.source] * count
            captions += [None, *of_item]
            vectors += [image_E[None], text_NE[first : first + len(of_item)]]
            first += len(of_item)
        return Rows(keys, kinds, np.concatenate(vectors), sources, captions)

    def _texts_of(self, item: Item) -> list[str]:
        record = item.record
        found = {
            "none": (),
            "web": record.web_captions,
            "synthetic": tuple(caption.text for caption in record.synthetic_captions),
            "human": record.captions,
        }[self.texts]
        return [text for text in found if text.strip()]


def embed(inputs: Inputs, model: Path, config: EmbedConfig, out: Path) -> Path:
    """Write the table, unless it is up to date. Finished parts of a run that was killed are used.

    Args:
        inputs: samples to read.
        model: folder of the model.
        config: parameters.
        out: the Parquet file.

    Returns:
        `out`.

    Raises:
        ConfigError: the model cannot be loaded, too many samples are skipped, or there is none.
        OSError: the disk is full; finished parts are kept and no table is written.
    """
    digest = model_digest(model)
    dimensions = load_config(model)[0]
    if config.texts != "none" and not dimensions.text_tower:
        raise ConfigError(
            f"embed.texts: {config.texts}, but the model in {model} has no text tower (train.method captioning); set none"
        )
    size = dimensions.embed_dim
    facts: list[Any] = [digest, inputs.fingerprint, config.texts, config.batch_size, formats.EMBEDDINGS]
    fingerprint = json_sha256(facts)
    work_folder = out.with_name(f".{out.name}.parts")
    out.parent.mkdir(parents=True, exist_ok=True)
    with lock_target(out):
        if _is_current(out, fingerprint):
            log.info("%s: up to date, nothing to do", shown_path(out))
            return out
        parts = open_parts(inputs.tasks, work_folder, fingerprint)
        table = TableFacts(digest, size, fingerprint)
        work = EmbedWork(model, table, config.texts, config.batch_size)
        run_ranks(work, parts, device=config.device, processes=config.processes)
        total = check_results([part.load() for part in parts], config.max_skipped_fraction, "embed")
        used = [part.table for part in parts]
        rows = merge_tables(used, out, TableFacts(digest, size, fingerprint, total.skipped))
        shutil.rmtree(work_folder, ignore_errors=True)
    log.info("%s: %d rows of %d samples, model %s", shown_path(out), rows, total.used, digest[:12])
    return out


def _is_current(out: Path, fingerprint: str) -> bool:
    try:
        return EmbeddingTable(out).facts.fingerprint == fingerprint
    except ConfigError:
        return False
