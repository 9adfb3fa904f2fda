"""Lengths of captions and fragments in token ids, and how much of them the model's rows truncate."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.data.prepare.caption_statistics import MAX_CAPTIONERS
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.captions import generator
from clips_pipeline.text.fragments import FragmentConfig, Strategy, fragment
from clips_pipeline.text.sentences import split_sub_captions
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

STRATEGIES: Final = get_args(Strategy)

_SEED = 0


class RowCapacity(NamedTuple):
    """Capacity in ids, without special ids, of text tower rows, captioner rows, and web captions in training."""

    context: int
    target: int
    web: int


def row_capacity(captions: CaptionConfig) -> RowCapacity:
    """Return the capacity of the rows in training."""
    context = captions.context_length - 3
    return RowCapacity(context, captions.target_length - 2, min(context, captions.web_tokens or context))


@dataclass(slots=True)
class Lengths:
    """Lengths of one kind of text.

    Attributes:
        capacity: number of ids that fit into its row.
        values: number of ids of each of the N texts, without special ids; for fragments, after applying the budget.
        cut: number of texts truncated by the row or by the fragment's budget.
        unknown: total number of UNK ids.
        replaced: number of fragments replaced by the web caption because the synthetic caption has no usable piece.
    """

    capacity: int
    values: list[int] = field(default_factory=list)
    cut: int = 0
    unknown: int = 0
    replaced: int = 0

    def add(self, ids: Sequence[int], unknown_id: int) -> None:
        """Add one text."""
        self.values.append(len(ids))
        self.cut += len(ids) > self.capacity
        self.unknown += ids.count(unknown_id)

    def quantile(self, part: float) -> int:
        """Return the quantile of the lengths at `part`, from 0 to 1; 0 without texts."""
        return int(np.quantile(self.values, part, method="inverted_cdf")) if self.values else 0

    @property
    def empty(self) -> int:
        """Number of texts without ids."""
        return self.values.count(0)


@dataclass(frozen=True, slots=True)
class SplitTexts:
    """Lengths of the texts of one split.

    Attributes:
        samples: number of samples whose texts were read. Missing captions, as in evaluation sets, are not counted.
        total_samples: number of samples of the split.
        shards: number of shards read.
        total_shards: number of shards of the split.
        unreadable: number of samples left out because they are damaged or unavailable.
        web: all web captions, in rows of the text tower.
        synthetic: all whole synthetic captions, in rows of the captioner.
        human: all human captions, in rows of the text tower.
        fragments: fragments by strategy, in rows of the text tower.
        sentences: (N,) number of sub-captions of each synthetic caption, by the published rule.
        captioners: the same as `synthetic`, by captioner; those without a name are left out.
        frequent: the most frequent text of the first web and of the first synthetic captions, and the number of samples with
            it; by "web" and "synthetic".
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
    captioners: dict[str, Lengths] = field(default_factory=dict)
    frequent: dict[str, tuple[str, int]] = field(default_factory=dict)


class RandomSamples:
    """Random samples of a split: whole shards drawn with a fixed seed until there are enough samples.

    It draws shards rather than single samples because each shard may have to be downloaded.

    Args:
        folder: folder of the index.
        split: split to draw from.
        most: maximum number of samples.
        remote: cache for shards in remote storage.
    """

    def __init__(self, folder: Path, split: str, most: int, remote: ShardCache | None) -> None:
        self.set = ShardSet(folder, split, max_open_files=1, remote=remote)
        self.split, self.unreadable = split, 0
        shards = list(range(len(self.set.samples)))
        random.Random(f"{_SEED}/{split}").shuffle(shards)  # noqa: S311 - not used for cryptography
        self.places: list[tuple[int, int]] = []
        for shard in shards:
            if len(self.places) >= most:
                break
            count = min(self.set.samples[shard], most - len(self.places))
            self.places += [(shard, row) for row in range(count)]

    def texts(self) -> Iterator[Record]:
        """Yield all samples without images and count the unreadable ones."""
        self.unreadable = 0
        for shard, row in self.places:
            try:
                yield self.set.read(shard, row, image=False)
            except BadSampleError:
                self.unreadable += 1
        self.set.close()

    def examples(self, count: int) -> Iterator[Record]:
        """Yield `count` random samples with images, in shard order; fewer if some are unreadable."""
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
    """Measure the texts of the samples. Every strategy makes one fragment per sample, as in one epoch of training.

    Args:
        drawn: the samples.
        tokenizer: tokenizer of the model.
        captions: row lengths and the strategy used in training. The other strategies get the same budget.
    """
    capacity = row_capacity(captions)
    web, synthetic, human = Lengths(capacity.web), Lengths(capacity.target), Lengths(capacity.context)
    unknown = tokenizer.unk_id
    samples, sentences = 0, []
    configs = {name: _fragment_config(name, captions) for name in STRATEGIES}
    fragments = {name: Lengths(capacity.context) for name in STRATEGIES}
    captioners: dict[str, Lengths] = {}
    equal = {"web": Counter[str](), "synthetic": Counter[str]()}
    for record in drawn.texts():
        samples += 1
        for caption in record.captions:
            human.add(tokenizer.body(caption), unknown)
        for text in filter(None, record.web_captions):
            web.add(tokenizer.body(text), unknown)
        equal["web"][record.web_caption.strip()] += 1
        equal["synthetic"][record.synthetic_caption.strip()] += 1
        for text, captioner in record.synthetic_captions:
            if not text:
                continue
            body = tokenizer.body(text)
            synthetic.add(body, unknown)
            if captioner and (captioner in captioners or len(captioners) < MAX_CAPTIONERS):
                captioners.setdefault(captioner, Lengths(capacity.target)).add(body, unknown)
            sentences.append(len(split_sub_captions(text)))
            for name, config in configs.items():
                ids = fragment(text, config, tokenizer, generator(_SEED, 0, record.key))
                if ids is None:
                    fragments[name].replaced += 1
                    continue
                fragments[name].add(ids, unknown)
                # The fragment was already truncated to its budget.
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
        captioners=dict(sorted(captioners.items())),
        frequent={kind: _most_frequent(texts) for kind, texts in equal.items()},
    )


def _most_frequent(texts: "Counter[str]") -> tuple[str, int]:
    """Return the most frequent text that is not empty, and how often it occurs; an empty text if there is none."""
    del texts[""]
    # Ties by the text, so that the same data gives the same page.
    return min(texts.items(), key=lambda found: (-found[1], found[0]), default=("", 0))


def _fragment_config(strategy: Strategy, captions: CaptionConfig) -> FragmentConfig:
    if strategy == captions.fragment.strategy and (strategy == "sub_caption" or captions.fragment.tokens):
        return captions.fragment
    if strategy == "sub_caption":
        return FragmentConfig(tokens=captions.fragment.tokens)
    # Without a budget the capacity of the row is used, as in `CaptionReader`.
    return FragmentConfig(strategy, captions.fragment.tokens or row_capacity(captions).context)
