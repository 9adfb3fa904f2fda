"""What a training sample costs: operations counted from the lengths of the very rows that are trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.models.flops import training_flops
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import model_config

LOOKED_AT = 512
Lengths = tuple[int, int, int]


@dataclass(frozen=True)
class Captions:
    """Web and synthetic captions of the first training samples, with their keys."""

    pairs: tuple[tuple[str, str, str], ...]

    def mean_ids(self, tokenizer: Tokenizer, which: int) -> float:
        """Mean ids of the web (0) or the synthetic captions (1), specials not counted."""
        return sum(len(tokenizer.body(pair[which])) for pair in self.pairs) / len(self.pairs)


def read_captions(shards: Path, remote: ShardCache | None) -> Captions:
    """Those of the first training samples."""
    records = islice(eval_samples(shards, "train", remote=remote), LOOKED_AT)
    return Captions(tuple((r.web_caption, r.synthetic_caption, r.key) for r in records))


def tokenized_rows(config: TrainConfig, captions: Captions, tokenizer: Tokenizer) -> list[tuple[list[int], ...]]:
    """Web, fragment and target ids of these captions' samples in the first epoch."""
    reader = CaptionReader(config.captions, tokenizer, config.seed, config.method)
    read = (reader.read(web, synthetic, epoch=0, key=key) for web, synthetic, key in captions.pairs)
    return [(list(rows.web), list(rows.fragment), list(rows.target)) for rows in read]


def row_lengths(config: TrainConfig, captions: Captions, tokenizer: Tokenizer) -> Counter[Lengths]:
    """How often each (web, fragment, target) length comes in the first epoch.

    A row's PAD is not counted where the model hides it (`padding: mask`), and is where it attends to it. The captioner's
    queries end with the target's last label.
    """
    reader = CaptionReader(config.captions, tokenizer, config.seed, config.method)
    attended = config.model.padding == "attend"
    found: Counter[Lengths] = Counter()

    def tokens(row: Sequence[int]) -> int:
        return sum(token != Tokenizer.pad_id for token in row)

    for web, synthetic, key in captions.pairs:
        rows = reader.read(web, synthetic, epoch=0, key=key)
        web_length, fragment = (len(row) if attended else tokens(row) for row in (rows.web, rows.fragment))
        found[web_length, fragment, max(0, tokens(rows.target) - 1)] += 1
    return found


def mean_flops(config: TrainConfig, lengths: Counter[Lengths], tokenizer: Tokenizer) -> float:
    """Mean floating-point operations of a training sample with these lengths, forward and backward (`models.flops`)."""
    model = model_config(config, tokenizer.vocab_size)
    total = sum(count * training_flops(model, *row) for row, count in lengths.items())
    return total / lengths.total()


def flops_per_sample(config: TrainConfig, captions: Captions, tokenizer: Tokenizer) -> float:
    """`mean_flops` the lengths of these captions."""
    return mean_flops(config, row_lengths(config, captions, tokenizer), tokenizer)


def fragment_tokens(lengths: Counter[Lengths]) -> float:
    """Mean tokens of a fragment's row, BOS, EOS and CLS included."""
    return sum(count * fragment for (_, fragment, _), count in lengths.items()) / lengths.total()
