"""Caption lengths against captions whose words can be counted by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.samples import ListSource, record
from tests.unit.reports.data.hostile_texts import Words

from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.reports.data.caption_lengths import STRATEGIES, RandomSamples, measure, row_capacity
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader, FragmentConfig

CAPTIONS = [
    ("one two three", "A b. C d e! F"),
    ("w " * 78, "w " * 127),
    ("xyz xyz", "xyz " * 77),
    ("w " * 77, "w " * 126),
    ("one", "!!! ..."),
]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    records = [record(i, web_caption=web, synthetic_caption=long) for i, (web, long) in enumerate(CAPTIONS)]
    prepare(ListSource({"train": [records]}), tmp_path / "shards")  # type: ignore[arg-type]
    return tmp_path / "shards"


def test_counts_can_be_checked_by_hand(shards: Path) -> None:
    found = measure(RandomSamples(shards, "train", 100, None), Words(), CaptionConfig())
    assert (found.samples, found.total_samples, found.shards, found.total_shards, found.unreadable) == (5, 5, 1, 1, 0)
    assert found.web.values == [3, 78, 2, 77, 1]
    assert (found.web.cut, found.web.unknown, found.web.quantile(0.5), found.web.quantile(1)) == (1, 2, 3, 78)
    assert found.synthetic.values == [6, 127, 77, 126, 2]
    assert (found.synthetic.cut, found.synthetic.capacity, found.synthetic.unknown) == (1, 126, 77)
    # The others have no stops, so they are one sentence.
    assert found.sentences.tolist() == [3, 1, 1, 1, 1]
    assert set(found.fragments) == set(STRATEGIES) == {"sub_caption", "truncation", "random_mask", "block_mask"}
    sub_caption = found.fragments["sub_caption"]
    assert sub_caption.values[1:] == [127, 77, 126, 0]
    assert sub_caption.values[0] in (1, 2, 3)
    assert (sub_caption.cut, sub_caption.empty, sub_caption.replaced) == (2, 1, 0)
    for name in ("truncation", "random_mask", "block_mask"):
        assert found.fragments[name].values == [6, 77, 77, 77, 2]
        assert found.fragments[name].cut == 2


@pytest.mark.parametrize(
    "config",
    [
        CaptionConfig(),
        CaptionConfig(context_length=40, target_length=48),
        CaptionConfig(context_length=40, web_tokens=2, fragment=FragmentConfig(tokens=3)),
    ],
)
def test_rows_of_training_hold_what_the_report_says(shards: Path, config: CaptionConfig) -> None:
    """Rows of the reader that training uses, with the configured lengths."""
    found = measure(RandomSamples(shards, "train", 100, None), Words(), config)
    capacity = row_capacity(config)
    for name in STRATEGIES:
        captions = replace(config, fragment=FragmentConfig(strategy=name, tokens=config.fragment.tokens))
        reader = CaptionReader(captions, Words(), seed=0)
        rows = [
            reader.read(r.web_captions, r.synthetic_captions, epoch=0, key=r.key) for r in eval_samples(shards, "train")
        ]
        read = [len([i for i in row.fragment if i in (4, 5)]) for row in rows]
        fragments = found.fragments[name]
        # If the fragment is replaced, the row contains the web caption.
        assert [ids for ids in read if ids or name == "sub_caption"][: len(fragments.values)] or fragments.replaced
        if not fragments.replaced:
            assert read == np.minimum(fragments.values, capacity.context).tolist()
    assert [sum(i in (4, 5) for i in row.web) for row in rows] == np.minimum(found.web.values, capacity.web).tolist()
    assert found.web.capacity == capacity.web
    targets = [sum(i in (4, 5) for i in row.target) for row in rows]
    if not any(fragments.replaced for fragments in found.fragments.values()):
        assert targets == np.minimum(found.synthetic.values, capacity.target).tolist()
    assert (found.synthetic.capacity, found.synthetic.cut) == (
        capacity.target,
        sum(ids > capacity.target for ids in found.synthetic.values),
    )


def test_a_caption_without_a_piece_is_replaced(tmp_path: Path) -> None:
    source = ListSource({"train": [[record(0, synthetic_caption="..."), record(1)]]})
    prepare(source, tmp_path / "shards")  # type: ignore[arg-type]
    found = measure(RandomSamples(tmp_path / "shards", "train", 100, None), Words(), CaptionConfig())
    assert found.fragments["sub_caption"].replaced == 1
    assert len(found.fragments["sub_caption"].values) == 1
    assert found.fragments["truncation"].replaced == 0


def test_human_captions_count_one_by_one_and_captions_that_a_set_lacks_do_not(tmp_path: Path) -> None:
    records = [record(0, web_caption="", synthetic_caption="", captions=("a b", "c d e")), record(1)]
    source = ListSource({"train": [records]}, needs_captions=False)
    prepare(source, tmp_path / "shards")  # type: ignore[arg-type]
    found = measure(RandomSamples(tmp_path / "shards", "train", 100, None), Words(), CaptionConfig())
    assert found.samples == 2
    assert found.human.values == [2, 3]
    assert found.web.values == [2]
    assert found.synthetic.values == [4]
    assert [len(lengths.values) for lengths in found.fragments.values()] == [1] * 4
    assert len(found.sentences) == 1


def test_whole_shards_are_drawn_until_there_are_enough(tmp_path: Path) -> None:
    records = [record(i) for i in range(50)]
    prepare(ListSource({"train": [records]}), tmp_path / "shards", samples_per_shard=5)  # type: ignore[arg-type]
    drawn = RandomSamples(tmp_path / "shards", "train", 12, None)
    shards = [shard for shard, _ in drawn.places]
    assert len(drawn.places) == 12
    assert [shards.count(shard) for shard in dict.fromkeys(shards)] == [5, 5, 2]
    assert sorted(set(shards)) != [0, 1, 2]
    assert drawn.places == RandomSamples(tmp_path / "shards", "train", 12, None).places
    keys = [r.key for r in drawn.texts()]
    some = list(drawn.examples(4))
    assert len({r.key for r in some}) == 4
    assert {r.key for r in some} <= set(keys)
    assert all(r.image for r in some)
    assert not any(r.image for r in drawn.texts())
    assert len(list(drawn.examples(100))) == 12
    found = measure(drawn, Words(), CaptionConfig())
    assert (found.samples, found.total_samples, found.shards, found.total_shards) == (12, 50, 3, 10)


def test_samples_that_have_become_unreadable_are_counted(shards: Path) -> None:
    entry = load_index(shards).split("train")[0]
    content = (shards / entry.path).read_bytes()
    at = content.index(b"re_caption")
    (shards / entry.path).write_bytes(content[:at] + b"xx_caption" + content[at + 10 :])
    found = measure(RandomSamples(shards, "train", 100, None), Words(), CaptionConfig())
    assert (found.samples, found.unreadable) == (4, 1)
