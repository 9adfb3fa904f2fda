"""Errors for a split of another size, or with captions for only some of its images."""

import logging
from dataclasses import replace

import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.evaluation.config import EvaluationConfig, ExpectedSizes
from clips_pipeline.evaluation.evaluate import evaluate_model, evaluate_records
from clips_pipeline.evaluation.inference.embed import Embedder, retrieval_texts
from clips_pipeline.evaluation.split_check import check_expected_sizes, check_missing_captions
from clips_pipeline.interop.folder import load_model_folder

PLAIN = EvaluationConfig(device="cpu", examples=0, captioning=False)
COCO = replace(PLAIN, set_name="coco", expected=ExpectedSizes(images=5000, captions=25010))
KEYS = list("abcdefgh")


@pytest.fixture
def embedder(model_folder):
    loaded = load_model_folder(model_folder)
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=5)


@pytest.fixture
def records(shards):
    return list(eval_samples(shards, "test"))


@pytest.fixture
def some(records):
    """Thirteen images, of which the second and the fourth have no caption."""
    return [replace(r, captions=(), web_captions=(" ",)) if i in (1, 3) else r for i, r in enumerate(records)]


def test_matching_and_unset_sizes_pass():
    check_expected_sizes(COCO, 5000, 25010)
    check_expected_sizes(COCO, 5000)  # captions are not counted yet
    check_expected_sizes(PLAIN, 3, 7)
    check_expected_sizes(replace(PLAIN, expected=ExpectedSizes(captions=0)), 3, 0)


@pytest.mark.parametrize(
    ("sizes", "wrong"),
    [
        ((4999, 25010), "evaluate.expected.images is 5000, found 4999 in the test split of coco; "),
        ((5000, 25000), "evaluate.expected.captions is 25010, found 25000 in the test split of coco; "),
        ((4999, None), "evaluate.expected.images is 5000, found 4999 in the test split of coco; "),
        (
            (1000, 0),
            "evaluate.expected.images is 5000, found 1000 and evaluate.expected.captions is 25010, found 0 in the test split",
        ),
    ],
)
def test_a_wrong_size_is_an_error_with_remedy(sizes, wrong):
    with pytest.raises(ConfigError) as caught:
        check_expected_sizes(COCO, *sizes)
    assert str(caught.value).startswith(wrong)
    assert "prepare the whole set" in str(caught.value)
    assert "null: not checked" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"expected": {"images": 0}}, r"evaluate.expected.images: 0 must be at least 1"),
        ({"expected": {"captions": -1}}, r"evaluate.expected.captions: -1 must be at least 0"),
        ({"expected": {"image": 5}}, r"evaluate.expected.image: unknown key; did you mean 'images'"),
        ({"missing_captions": "ignore"}, r"evaluate.missing_captions.*refuse.*skip"),
    ],
)
def test_settings_that_cannot_be_used(mapping, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(EvaluationConfig, mapping, "evaluate")


def test_the_number_of_images_is_checked_before_the_model_is_loaded(shards, tmp_path):
    wrong = replace(PLAIN, expected=ExpectedSizes(images=14))
    with pytest.raises(ConfigError, match=r"expected.images is 14, found 13 in the test split"):
        evaluate_model(tmp_path / "no model", shards, wrong)
    with pytest.raises(ConfigError, match="no model"):
        evaluate_model(tmp_path / "no model", shards, replace(PLAIN, expected=ExpectedSizes(images=13)))


def test_captions_are_counted_before_any_is_embedded(embedder, records, monkeypatch):
    right = replace(PLAIN, expected=ExpectedSizes(images=13, captions=13 * 5))
    assert evaluate_records(embedder, lambda: records, None, right).metrics
    monkeypatch.setattr(embedder, "texts", lambda texts: pytest.fail("texts were embedded"))
    with pytest.raises(ConfigError, match=r"expected.captions is 65, found 64 in the test split"):
        evaluate_records(embedder, lambda: [replace(records[0], captions=("a",) * 4), *records[1:]], None, right)
    # Samples that are not from shards have no index with the number of images.
    with pytest.raises(ConfigError, match=r"expected.images is 13, found 12 and .*captions is 65, found 60"):
        evaluate_records(embedder, lambda: records[1:], None, right)


def test_captions_for_all_or_no_images_pass():
    check_missing_captions(PLAIN, ["a", "b"], [1, 0, 0])
    check_missing_captions(PLAIN, ["a", "b"], [])


def test_missing_captions_are_counted_and_the_first_are_named():
    with pytest.raises(ConfigError) as caught:
        check_missing_captions(PLAIN, KEYS, [0, 0, 6])
    assert str(caught.value) == (
        "evaluate: 6 of 8 images in the test split of scenes have no retrieval caption: b, c, d, e, f, …; prepare the set with "
        "a caption for each image, or set evaluate.missing_captions to skip to leave them out as queries"
    )
    with pytest.raises(ConfigError, match=r"have no long caption: a, c; prepare"):
        check_missing_captions(PLAIN, ["a", "b", "c"], [1], "long")


def test_some_images_without_captions_are_refused_or_skipped_with_a_warning(embedder, some, caplog):
    with pytest.raises(ConfigError, match=f"2 of 13 images .*: {some[1].key}, {some[3].key};"):
        evaluate_records(embedder, lambda: some, None, PLAIN)
    with caplog.at_level(logging.WARNING):
        found = evaluate_records(embedder, lambda: some, None, replace(PLAIN, missing_captions="skip"))
    said = [record.getMessage() for record in caplog.records if record.name.endswith("split_check")]
    assert said == [
        f"2 of 13 images in the test split of scenes have no retrieval caption and are left out as queries: {some[1].key}, "
        f"{some[3].key}"
    ]
    assert [row["key"] for row in found.per_item if row["image_to_text_rank"] is None] == [some[1].key, some[3].key]


def test_a_split_without_captions_has_no_retrieval_and_is_not_refused(embedder, records):
    bare = [replace(record, captions=(), web_captions=(), questions=()) for record in records]
    found = evaluate_records(embedder, lambda: bare, None, PLAIN)
    assert set(found.metrics) == {"caption/scenes/loss"}


def test_a_web_caption_is_a_caption(embedder, records):
    mixed = [replace(r, captions=()) if i % 2 else r for i, r in enumerate(records)]
    found = evaluate_records(embedder, lambda: mixed, None, PLAIN)
    assert [len(row["text_to_image_ranks"]) for row in found.per_item] == [1 if i % 2 else 5 for i in range(13)]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_image_of_the_embedded_data_has_captions(shards, split):
    texts = [retrieval_texts(record) for record in eval_samples(shards, split)]
    assert texts
    assert all(text.strip() for own in texts for text in own or ("",))
