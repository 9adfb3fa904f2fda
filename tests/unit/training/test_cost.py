"""Operations of a training sample, counted from its rows."""

from pathlib import Path

import pytest

from clips_pipeline.config import from_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.models.flops import training_flops
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.cost import flops_per_sample, fragment_tokens, mean_flops, read_captions, row_lengths
from clips_pipeline.training.resolve import model_config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    folder = tmp_path_factory.mktemp("data")
    prepare(ScenesSource(ScenesConfig(train=24, validation=4, test=4, samples_per_shard=8)), folder / "shards")
    captions = [record.synthetic_caption for record in eval_samples(folder / "shards", "train")]
    train_wordpiece(captions, 300, folder / "tokenizer")
    return folder / "shards", load_tokenizer(folder / "tokenizer")


def cost(data: tuple[Path, Tokenizer], **changes: object) -> float:
    config = from_mapping(TrainConfig, changes, "train")
    return flops_per_sample(config, read_captions(data[0], None), data[1])


def test_it_is_the_mean_over_samples(data: tuple[Path, Tokenizer]) -> None:
    shards, tokenizer = data
    config = from_mapping(TrainConfig, {"captions": {"fragment": {"tokens": 8}}}, "train")
    reader = CaptionReader(config.captions, tokenizer, config.seed)
    each = []
    for record in eval_samples(shards, "train"):
        rows = reader.read(record.web_captions, record.synthetic_captions, epoch=0, key=record.key)
        web, part, target = (sum(token != 0 for token in row) for row in rows[:3])
        each.append(training_flops(model_config(config, tokenizer.vocab_size), web, part, target - 1))
    lengths = row_lengths(config, read_captions(shards, None), tokenizer)
    assert lengths.total() == len(each) == 24
    assert mean_flops(config, lengths, tokenizer) == pytest.approx(sum(each) / len(each), rel=1e-12)
    assert 3 < fragment_tokens(lengths) <= 11


def test_shorter_fragments_cost_less_where_padding_is_hidden(data: tuple[Path, Tokenizer]) -> None:
    hidden = [cost(data, captions={"fragment": {"tokens": tokens}}) for tokens in (6, 12, 24)]
    assert hidden == sorted(hidden)
    assert hidden[0] < hidden[2]
    attended = {
        cost(data, model={"padding": "attend"}, captions={"fragment": {"tokens": tokens}}) for tokens in (6, 24)
    }
    assert len(attended) == 1  # every position of the row is computed
    assert attended.pop() > hidden[2]


def test_a_method_without_fragment_or_captioner_costs_less(data: tuple[Path, Tokenizer]) -> None:
    clip, clips = cost(data, method="clip"), cost(data)
    assert 0 < clip < clips
