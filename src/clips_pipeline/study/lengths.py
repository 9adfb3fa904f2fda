"""How long the captions of a data set are, and what a sample of them costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from clips_pipeline.models.flops import training_flops
from clips_pipeline.shards.reader import RemoteShards, eval_samples
from clips_pipeline.text.captions import CaptionReader
from clips_pipeline.text.tokenizer import Tokenizer
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import model_config

LOOKED_AT = 512


@dataclass(frozen=True)
class Captions:
    """Web and synthetic captions of the first training samples, with their keys."""

    pairs: tuple[tuple[str, str, str], ...]

    def mean_ids(self, tokenizer: Tokenizer, which: int) -> float:
        """Mean ids of the web (0) or the synthetic captions (1), specials not counted."""
        return sum(len(tokenizer.body(pair[which])) for pair in self.pairs) / len(self.pairs)


def captions_of(shards: Path, remote: RemoteShards | None) -> Captions:
    """Those of the first training samples."""
    records = islice(eval_samples(shards, "train", remote=remote), LOOKED_AT)
    return Captions(tuple((r.web_caption, r.synthetic_caption, r.key) for r in records))


def flops_per_sample(config: TrainConfig, captions: Captions, tokenizer: Tokenizer) -> float:
    """Mean operations of a training sample, forward and backward, exact for each sample's own lengths.

    Under `padding: attend` every place of a text row counts, as it is computed.
    """
    model = model_config(config, tokenizer.vocab_size)
    reader = CaptionReader(config.captions, tokenizer, config.seed, config.method)
    rows = [reader.read(web, synthetic, epoch=0, key=key) for web, synthetic, key in captions.pairs]
    pad = model.text.pad_id

    def tokens(row: Sequence[int]) -> int:
        return len(row) if row and model.text.padding == "attend" else sum(number != pad for number in row)

    total = 0
    for row in rows:
        queries = sum(number != pad for number in row.target) - 1 if row.target else 0
        total += training_flops(model, tokens(row.web), tokens(row.fragment), queries)
    return total / len(rows)


def at_length(config: TrainConfig, samples: int) -> TrainConfig:
    """The same training with whole steps of about so many samples; a schedule stays within them."""
    whole = max(1, round(samples / config.batch_size)) * config.batch_size
    warmup = min(config.optimizer.warmup_samples, whole // 10)
    return replace(config, samples=whole, optimizer=replace(config.optimizer, warmup_samples=warmup))
