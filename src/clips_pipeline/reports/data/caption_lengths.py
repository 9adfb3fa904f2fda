"""How long captions and fragments are in ids of the tokenizer, and what of them the model's rows cut off."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.text.caption_rows import CaptionConfig, generator
from clips_pipeline.text.fragments import FragmentConfig, Strategy, fragment
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

STRATEGIES: Final = get_args(Strategy)

_SEED = 0


class RowCapacity(NamedTuple):
    """Ids that rows hold, specials not counted: of the text tower, of the captioner, and what training leaves of a web caption."""

    context: int
    target: int
    web: int


def row_capacity(captions: CaptionConfig) -> RowCapacity:
    """Of the rows that training makes."""
    context = captions.context_length - 3
    return RowCapacity(context, captions.target_length - 2, min(context, captions.web_tokens or context))


@dataclass(slots=True)
class Lengths:
    """Ids of one kind of text.

    Attributes:
        capacity: ids that fit into the row it goes to.
        values: ids of each of the N texts, specials not counted; of a fragment with a budget what the budget left.
        cut: texts of which ids are lost to the row, or to the fragment's budget.
        unknown: ids that stand for a word which the vocabulary cannot spell, of all texts together.
        replaced: fragments that have no usable piece, so that the web caption stands in.
    """

    capacity: int
    values: list[int] = field(default_factory=list)
    cut: int = 0
    unknown: int = 0
    replaced: int = 0

    def add(self, ids: Sequence[int], unknown_id: int) -> None:
        """Count one text."""
        self.values.append(len(ids))
        self.cut += len(ids) > self.capacity
        self.unknown += ids.count(unknown_id)

    def quantile(self, part: float) -> int:
        """The smallest length that `part` of the texts, from 0 to 1, do not exceed; 0 where there is none."""
        return int(np.quantile(self.values, part, method="inverted_cdf")) if self.values else 0

    @property
    def empty(self) -> int:
        """Texts without any id."""
        return self.values.count(0)


@dataclass(frozen=True, slots=True)
class SplitTexts:
    """What was read of one split.

    Attributes:
        samples: whose texts were read. Sets that serve evaluation alone may lack captions, which are not counted then.
        total_samples: that the split has.
        shards: they came from.
        total_shards: that the split has.
        unreadable: samples left out, because they are damaged or cannot be had.
        web: web captions in a row of the text tower.
        synthetic: synthetic captions, whole, in the captioner's row.
        human: human captions in a row of the text tower, all of each sample.
        fragments: by strategy, in a row of the text tower.
        sentences: (N,) sub-captions of each synthetic caption, by the published rule.
    """

    samples: int
    total_samples: int
    shards: int
    total_shards: int
    unreadable: int
    web: Lengths
    synthetic: Lengths
    human: Lengths
    fragments: dict[str, Lengths]
    sentences: NDArray[np.int64]


class RandomSamples:
    """Samples of a split: whole shards drawn at random, by a fixed seed, until there are enough.

    Shards and not single samples, because each shard that is touched may have to be fetched.

    Args:
        folder: of the index.
        split: of it.
        most: samples.
        remote: where shards that are not on this machine are copied to.
    """

    def __init__(self, folder: Path, split: str, most: int, remote: ShardCache | None) -> None:
        self.set = ShardSet(folder, split, max_open_files=1, remote=remote)
        self.split, self.unreadable = split, 0
        shards = list(range(len(self.set.samples)))
        random.Random(f"{_SEED}/{split}").shuffle(shards)  # noqa: S311 - no secret depends on it
        self.places: list[tuple[int, int]] = []
        for shard in shards:
            if len(self.places) >= most:
                break
            count = min(self.set.samples[shard], most - len(self.places))
            self.places += [(shard, row) for row in range(count)]

    def texts(self) -> Iterator[Record]:
        """All of them without their images; those that cannot be read are counted."""
        self.unreadable = 0
        for shard, row in self.places:
            try:
                yield self.set.read(shard, row, image=False)
            except BadSampleError:
                self.unreadable += 1
        self.set.close()

    def examples(self, count: int) -> Iterator[Record]:
        """At random `count` of them, with their images, in the order of the shards; fewer where some cannot be read."""
        chosen = random.Random(f"{_SEED}/{self.split}/some").sample(  # noqa: S311 - as above
            range(len(self.places)), min(count, len(self.places))
        )
        for shard, row in sorted(self.places[i] for i in chosen):
            try:
                yield self.set.read(shard, row)
            except BadSampleError:
                continue
        self.set.close()


def measure(drawn: RandomSamples, tokenizer: Tokenizer, captions: CaptionConfig) -> SplitTexts:
    """Read the texts of the samples; every strategy makes one fragment of each, as an epoch of training does.

    Args:
        drawn: which samples.
        tokenizer: gives the lengths.
        captions: lengths of the rows, and the strategy that training uses. The others are given the same budget.
    """
    capacity = row_capacity(captions)
    web, synthetic, human = Lengths(capacity.web), Lengths(capacity.target), Lengths(capacity.context)
    unknown = tokenizer.unk_id
    samples, sentences = 0, []
    configs = {name: _fragment_config(name, captions) for name in STRATEGIES}
    fragments = {name: Lengths(capacity.context) for name in STRATEGIES}
    for record in drawn.texts():
        samples += 1
        for caption in record.captions:
            human.add(tokenizer.body(caption), unknown)
        if record.web_caption:
            web.add(tokenizer.body(record.web_caption), unknown)
        if not record.synthetic_caption:
            continue
        body = tokenizer.body(record.synthetic_caption)
        synthetic.add(body, unknown)
        sentences.append(len(split_sub_captions(record.synthetic_caption)))
        for name, config in configs.items():
            made = fragment(record.synthetic_caption, config, tokenizer, generator(_SEED, 0, record.key))
            if made is None:
                fragments[name].replaced += 1
                continue
            fragments[name].add(made, unknown)
            # A budget has cut it already.
            fragments[name].cut += config.tokens is not None and len(body) > config.tokens
    shards = drawn.set.samples
    return SplitTexts(
        samples=samples,
        total_samples=sum(shards),
        shards=len({shard for shard, _ in drawn.places}),
        total_shards=len(shards),
        unreadable=drawn.unreadable,
        web=web,
        synthetic=synthetic,
        human=human,
        fragments=fragments,
        sentences=np.array(sentences, np.int64),
    )


def _fragment_config(strategy: Strategy, captions: CaptionConfig) -> FragmentConfig:
    if strategy == captions.fragment.strategy and (strategy == "sub_caption" or captions.fragment.tokens):
        return captions.fragment
    if strategy == "sub_caption":
        return FragmentConfig(tokens=captions.fragment.tokens)
    # Without a budget of its own it takes what the row holds, as `CaptionReader` has it.
    return FragmentConfig(strategy, captions.fragment.tokens or row_capacity(captions).context)
