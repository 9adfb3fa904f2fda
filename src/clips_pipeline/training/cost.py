"""Floating-point operations of a training sample, from the lengths of real training rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.models.flops import training_flops
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.captions import Caption
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import model_config

COUNTED_SAMPLES = 512
Lengths = tuple[int, int | tuple[int, ...], int]
"""Tokens of the web row, of the fragment row (of each, if there are several), and query positions."""


@dataclass(frozen=True)
class CaptionSample:
    """Web captions, synthetic captions and key of the first training samples."""

    samples: tuple[tuple[tuple[str, ...], tuple[Caption, ...], str], ...]

    def mean_ids(self, tokenizer: Tokenizer, which: int) -> float:
        """Return the mean number of ids of the web (0) or the synthetic captions (1), without special ids."""
        web = [text for texts, _, _ in self.samples for text in texts]
        synthetic = [text for _, captions, _ in self.samples for text, _ in captions]
        texts = (web, synthetic)[which]
        return sum(len(tokenizer.body(text)) for text in texts) / max(len(texts), 1)


def read_captions(shards: Path, remote: ShardCache | None) -> CaptionSample:
    """Read the captions of the first training samples."""
    records = islice(eval_samples(shards, "train", remote=remote), COUNTED_SAMPLES)
    return CaptionSample(tuple((r.web_captions, r.synthetic_captions, r.key) for r in records))


def tokenized_rows(config: TrainConfig, captions: CaptionSample, tokenizer: Tokenizer) -> list[tuple[list[Any], ...]]:
    """Return web, fragment and target ids of these samples in the first epoch; a list of rows for several fragments."""
    reader = CaptionReader(config.captions, tokenizer, config.seed, config.method)
    read = (reader.read(web, synthetic, epoch=0, key=key) for web, synthetic, key in captions.samples)
    return [
        (rows.web, [rows.fragment, *rows.more_fragments] if rows.more_fragments else rows.fragment, rows.target)
        for rows in read
    ]


def row_lengths(config: TrainConfig, captions: CaptionSample, tokenizer: Tokenizer) -> Counter[Lengths]:
    """Count each (web, fragment, target) length in the first epoch.

    PAD is counted only where the model attends to it (`padding: attend`). The captioner's queries end with the last target token.
    """
    reader = CaptionReader(config.captions, tokenizer, config.seed, config.method)
    attended = config.model.padding == "attend"
    counts: Counter[Lengths] = Counter()

    def tokens(row: Sequence[int]) -> int:
        return sum(token != Tokenizer.pad_id for token in row)

    for web, synthetic, key in captions.samples:
        rows = reader.read(web, synthetic, epoch=0, key=key)
        read = (rows.web, rows.fragment, *rows.more_fragments)
        web_length, *fragments = (len(row) if attended else tokens(row) for row in read)
        fragment = tuple(fragments) if rows.more_fragments else fragments[0]
        counts[web_length, fragment, max(0, tokens(rows.target) - 1)] += 1
    return counts


def mean_flops(config: TrainConfig, lengths: Counter[Lengths], tokenizer: Tokenizer) -> float:
    """Return the mean operations of a training sample with these lengths, forward and backward (`models.flops`)."""
    model = model_config(config, tokenizer.vocab_size)
    kept = config.model.image_tokens_kept
    total = sum(count * training_flops(model, *row, kept) for row, count in lengths.items())
    return total / lengths.total()


def flops_per_sample(config: TrainConfig, captions: CaptionSample, tokenizer: Tokenizer) -> float:
    """Return `mean_flops` of the lengths of these captions."""
    return mean_flops(config, row_lengths(config, captions, tokenizer), tokenizer)


def fragment_tokens(lengths: Counter[Lengths]) -> float:
    """Return the mean number of tokens of a fragment row, with BOS, EOS and CLS."""
    return (
        sum(
            count * (fragment if isinstance(fragment, int) else sum(fragment) / len(fragment))
            for (_, fragment, _), count in lengths.items()
        )
        / lengths.total()
    )
