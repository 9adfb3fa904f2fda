"""Evaluation of a real model on real shards: keys, recomputed metrics, and sets with missing data."""

import base64
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.evaluation.sample_images import png

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError
from clips_pipeline.data.scenes.questions import SUBSETS
from clips_pipeline.data.shards.index import load_classes
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model, evaluate_records
from clips_pipeline.evaluation.inference.caption_decoding import caption_nats
from clips_pipeline.evaluation.inference.caption_examples import caption_examples
from clips_pipeline.evaluation.inference.embed import Embedder, evaluation_mode, open_image, retrieval_texts
from clips_pipeline.evaluation.inference.image_pass import run_image_pass
from clips_pipeline.evaluation.inference.training_retrieval import measure_retrieval
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.reports.model.pages import write_evaluation

RECALLS = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
ACCURACIES = ["accuracy@1", "accuracy@5", "mean_per_class_accuracy@1"]
CPU = EvaluationConfig(device="cpu", examples=3)


@pytest.fixture(scope="module")
def result(model_folder, shards):
    return evaluate_model(model_folder, shards, CPU)


def test_a_probe_learns_from_the_training_split(model_folder, shards, result):
    found = evaluate_model(model_folder, shards, replace(CPU, probe_samples=100))
    assert set(found.metrics) - set(result.metrics) == {"probe/scenes/linear_accuracy@1", "probe/scenes/knn_accuracy@1"}
    # The two training images vote for their own labels, the nearer one more.
    train, asked = (list(eval_samples(shards, name)) for name in ("train", "test"))
    loaded = load_model_folder(model_folder)
    embed = Embedder(loaded.model, loaded.image_transform, loaded.tokenizer).images
    near = (embed(open_image(r.image) for r in asked) @ embed(open_image(r.image) for r in train).T).argmax(axis=1)
    expected = np.mean([train[i].label == record.label for i, record in zip(near, asked, strict=True)])
    assert found.metrics["probe/scenes/knn_accuracy@1"] == pytest.approx(expected)


def test_the_keys_are_the_contract(result, shards):
    expected = {f"retrieval/scenes/{name}" for name in [*RECALLS, "mean_recall@1"]}
    expected |= {f"zero_shot/scenes/{name}" for name in ACCURACIES} | {"caption/scenes/loss"}
    expected |= {f"compositionality/scenes/{name}_accuracy" for name in (*SUBSETS, "mean")}
    expected |= {f"caption/scenes/{score}" for score in ("bleu4", "rouge_l", "cider")}
    assert len(load_classes(shards).names) > 5
    assert set(result.metrics) == expected == set(result.report_data.chance)
    assert all(type(value) is float for value in result.metrics.values())
    assert all(0 <= value <= 1 for name, value in result.metrics.items() if not name.startswith("caption"))


def test_the_loss_of_a_uniform_captioner_is_log_of_the_vocabulary_size(embedder, shards):
    embedder.model.captioner.head.weight.data.zero_()
    result = evaluate_records(embedder, lambda: eval_samples(shards, "test"), None, CPU)
    assert result.metrics["caption/scenes/loss"] == pytest.approx(math.log(300), rel=1e-6)
    assert result.report_data.chance["caption/scenes/loss"] == pytest.approx(math.log(embedder.tokenizer.vocab_size))


def test_rows_and_metrics_agree(result, shards):
    records = list(eval_samples(shards, "test"))
    assert [row["key"] for row in result.per_item] == [record.key for record in records]
    assert [row["label"] for row in result.per_item] == [record.label for record in records]
    assert [len(row["text_to_image_ranks"]) for row in result.per_item] == [len(r.captions) for r in records]
    image_ranks = [row["image_to_text_rank"] for row in result.per_item]
    text_ranks = [rank for row in result.per_item for rank in row["text_to_image_ranks"]]
    metrics = result.metrics
    assert metrics["retrieval/scenes/image_to_text_recall@5"] == np.mean([rank < 5 for rank in image_ranks])
    assert metrics["retrieval/scenes/text_to_image_recall@5"] == np.mean([rank < 5 for rank in text_ranks])
    assert metrics["zero_shot/scenes/accuracy@5"] == np.mean([row["zero_shot_rank"] < 5 for row in result.per_item])
    nats, tokens = (sum(row[name] for row in result.per_item) for name in ("caption_nats", "caption_tokens"))
    assert metrics["caption/scenes/loss"] == pytest.approx(nats / tokens)
    json.dumps(result.per_item, allow_nan=False)


def test_retrieval_equals_a_manual_computation(result, loaded, shards):
    records = list(eval_samples(shards, "test"))
    with torch.no_grad():
        images = torch.stack([loaded.image_transform(Image.open(io.BytesIO(r.image))) for r in records])
        image_NE = loaded.model.encode_image(images)
        for i, (record, row) in enumerate(zip(records, result.per_item, strict=True)):
            for caption, rank in zip(record.captions, row["text_to_image_ranks"], strict=True):
                text_E = loaded.model.encode_text(torch.tensor([loaded.tokenizer.encode(caption, 24)]))[0]
                score_N = (image_NE @ text_E).tolist()
                assert rank == sum(score >= score_N[i] - 1e-6 for score in score_N) - 1


def test_the_batch_size_changes_no_metric(result, model_folder, shards):
    other = evaluate_model(model_folder, shards, EvaluationConfig(device="cpu", batch_size=3, examples=0))
    assert other.metrics == pytest.approx(result.metrics, abs=1e-5)
    assert other.report_data.worst_images == other.report_data.even_captions == other.report_data.captioned == ()


def test_another_set_name_and_split(model_folder, shards):
    other = evaluate_model(model_folder, shards, EvaluationConfig("mine", "validation", device="cpu", examples=0))
    assert len(other.per_item) == 9
    assert {name.split("/")[1] for name in other.metrics} == {"mine"}


def test_examples_are_real_answers_of_the_model(result, shards, tmp_path):
    records = {record.key: record for record in eval_samples(shards, "test")}
    shown = result.report_data
    ranks = {row["key"]: row["image_to_text_rank"] for row in result.per_item}
    assert len(shown.even_images) == len(shown.even_captions) == len(shown.captioned) == 3
    for example in (*shown.even_images, *shown.worst_images):
        own = records[example.image.key]
        assert example.truth == own.captions
        assert example.rank == ranks[own.key]
        assert [right for _, right in example.captions] == [text in own.captions for text, _ in example.captions]
        assert (example.rank == 0) == example.captions[0][1]
    for example in (*shown.even_captions, *shown.worst_captions):
        assert example.caption in records[example.truth.key].captions
        assert [right for _, right in example.images] == [
            example.caption in records[picture.key].captions for picture, _ in example.images
        ]
        assert (example.rank == 0) == example.images[0][1]
    assert [example.subset for example in shown.questions] == list(SUBSETS[:3])
    for example in shown.questions:
        assert (example.subset, example.caption, example.negative) in records[example.image.key].questions
    html = write_evaluation(result, tmp_path / "e.html").read_text()
    far = sum(not any(own for _, own in one.images) for one in (*shown.even_captions, *shown.worst_captions))
    captions = len(shown.even_captions) + len(shown.worst_captions)
    assert html.count("<img") == 3 + len(shown.worst_images) + 5 * captions + far + 3 + 3


def test_the_worst_failures_come_first(result):
    shown = result.report_data
    ranks = sorted((row["image_to_text_rank"] for row in result.per_item), reverse=True)
    assert [example.rank for example in shown.worst_images] == [rank for rank in ranks[:3] if rank]
    of_images = sorted((max(row["text_to_image_ranks"]) for row in result.per_item), reverse=True)
    assert [example.rank for example in shown.worst_captions] == [rank for rank in of_images[:3] if rank]
    assert len({example.truth.key for example in shown.worst_captions}) == len(shown.worst_captions)
    even = [example.rank for example in shown.even_images]
    assert even == sorted(even, reverse=True)


def test_thumbnails_are_small_and_reencoded(result, shards):
    records = {record.key: record for record in eval_samples(shards, "test")}
    for example in result.report_data.even_images:
        assert example.image.alt_text == records[example.image.key].captions[0][:120]
        with Image.open(io.BytesIO(base64.b64decode(example.image.webp))) as image:
            assert (image.format, image.size) == ("WEBP", (32, 32))


def test_written_captions_are_those_of_the_captioner(result, loaded, shards):
    found, _ = caption_examples(loaded.model, shards, "test", loaded.tokenizer, ImageConfig(size=32), 13)
    words = {one.key: one for one in found}
    for one in result.report_data.captioned:
        theirs = words[one.image.key]
        assert (one.web, one.synthetic, one.at_once, one.beam) == (
            theirs.web,
            theirs.synthetic,
            theirs.at_once,
            theirs.beam,
        )
        row = next(row for row in result.per_item if row["key"] == one.image.key)
        assert one.loss == pytest.approx(row["caption_nats"] / row["caption_tokens"])
    losses = [one.loss for one in result.report_data.captioned]
    assert losses == sorted(losses, reverse=True)


def test_confusion_counts_what_accuracy_counts(result, shards):
    shown = result.report_data.confusion
    names = load_classes(shards).names
    assert shown.classes == len(names)
    assert sum(map(sum, shown.counts)) == len(result.per_item)
    right = sum(shown.counts[place][place] for place in range(len(shown.names)))
    assert right / len(result.per_item) == pytest.approx(result.metrics["zero_shot/scenes/accuracy@1"])
    assert sum(m.images for m in shown.mistakes) == len(result.per_item) - right


def test_caption_nats_equal_the_logits_of_every_query(loaded, shards):
    tokenizer, model = loaded.tokenizer, loaded.model
    records = list(eval_samples(shards, "test"))[:4]
    images = torch.stack([loaded.image_transform(Image.open(io.BytesIO(r.image))) for r in records])
    web = torch.tensor([tokenizer.encode(r.web_caption, 24) for r in records])
    target = torch.tensor([tokenizer.target_row(tokenizer.body(r.synthetic_caption), 40) for r in records])
    target[1] = torch.tensor(tokenizer.target_row([7, 8], 40))
    nats_B, tokens_B = caption_nats(model, images, web, target)
    with torch.no_grad():
        logits_BQV = model.caption_logits(images, web)
    for b in range(4):
        labels = [i for i in target[b, 1:].tolist() if i != tokenizer.pad_id]
        log_p = logits_BQV[b, : len(labels)].double().log_softmax(-1)
        expected = -sum(log_p[q, label].item() for q, label in enumerate(labels))
        assert tokens_B[b] == len(labels)
        assert nats_B[b].item() == pytest.approx(expected, rel=1e-5)
    assert tokens_B[1] == 3  # two words and EOS


def test_constant_image_embeddings_have_zero_recall(embedder, shards):
    for parameter in embedder.model.vision.parameters():
        parameter.data.zero_()
    result = evaluate_records(embedder, lambda: eval_samples(shards, "test"), load_classes(shards), CPU)
    assert {value for name, value in result.metrics.items() if "@1" in name and "@10" not in name} == {0.0}


def test_without_labels_or_classes_there_is_no_accuracy(embedder, shards):
    records = [
        Record(f"k{i}", png(c), "png", (f"web {c}",), (Caption(f"A {c} square."),))
        for i, c in enumerate(["red", "blue"])
    ]
    for classes in (None, load_classes(shards)):
        result = evaluate_records(embedder, lambda: records, classes, CPU)
        assert not [name for name in result.metrics if name.startswith("zero_shot")]
        assert [row["zero_shot_rank"] for row in result.per_item] == [None, None]


def test_without_long_captions_there_is_no_caption_loss(embedder, shards, tmp_path):
    records = [replace(r, synthetic_captions=(), questions=()) for r in eval_samples(shards, "test")]
    found = evaluate_records(embedder, lambda: records, None, CPU)
    assert set(found.metrics) == {f"retrieval/scenes/{name}" for name in [*RECALLS, "mean_recall@1"]}
    write_evaluation(found, tmp_path / "e.html")
    # Some long captions are enough; images without one do not count.
    some = [
        r if i % 2 else replace(r, synthetic_captions=(Caption(" "),))
        for i, r in enumerate(eval_samples(shards, "test"))
    ]
    alone = [r for i, r in enumerate(eval_samples(shards, "test")) if i % 2]
    wanted = evaluate_records(embedder, lambda: alone, None, CPU).metrics["caption/scenes/loss"]
    assert evaluate_records(embedder, lambda: some, None, CPU).metrics["caption/scenes/loss"] == pytest.approx(wanted)


def test_labels_only_give_accuracy_only(embedder, shards, tmp_path):
    nothing = {"web_captions": (), "synthetic_captions": (), "captions": (), "questions": ()}
    records = [replace(r, **nothing) for r in eval_samples(shards, "test")]
    found = evaluate_records(embedder, lambda: records, load_classes(shards), CPU)
    assert set(found.metrics) == {f"zero_shot/scenes/{name}" for name in ACCURACIES}
    assert found.per_item[0]["image_to_text_rank"] is None
    write_evaluation(found, tmp_path / "e.html")
    with pytest.raises(ConfigError, match="neither captions nor class labels"):
        evaluate_records(embedder, lambda: records, None, CPU)


def test_some_labels_are_enough(embedder, shards):
    records = [
        Record(f"k{i}", png(), "png", ("a",), (Caption("b."),), label=label) for i, label in enumerate([None, 2])
    ]
    result = evaluate_records(embedder, lambda: records, load_classes(shards), CPU)
    first, second = (row["zero_shot_rank"] for row in result.per_item)
    assert first is None
    assert result.metrics["zero_shot/scenes/accuracy@1"] == float(second == 0)


def test_the_web_caption_is_the_query_without_human_captions():
    assert retrieval_texts(Record("k", b"", "png", ("web",), (), ("a", "b"))) == ("a", "b")
    assert retrieval_texts(Record("k", b"", "png", ("web", " "), ())) == ("web",)


def test_embeddings_have_length_one_and_damaged_files_are_refused(embedder):
    embedding_NE = embedder.images(open_image(file) for file in [png("red"), png("blue", (20, 9)), png("green")])
    assert embedding_NE.shape == (3, 16)
    assert embedding_NE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding_NE, axis=1), 1, atol=1e-5)
    for damaged in (b"no image", png()[:40], b""):
        with pytest.raises(UndecodableImageError):
            open_image(damaged)
    with pytest.raises(ValueError, match="no images or texts to embed"):
        embedder.texts([])


def test_long_texts_are_truncated_independent_of_batches(embedder):
    texts = ["a cat", "word " * 200, "", "two cats on a mat"]
    np.testing.assert_allclose(embedder.texts(texts), np.concatenate([embedder.texts([t]) for t in texts]), atol=1e-5)


def test_training_retrieval_equals_the_full_evaluation_and_restores_the_mode(loaded, shards, model_folder):
    full = evaluate_model(model_folder, shards, EvaluationConfig(split="validation", device="cpu", examples=0)).metrics
    loaded.model.train()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    quick = measure_retrieval(loaded.model, shards, "validation", loaded.tokenizer, ImageConfig(size=32), batch_size=4)
    assert loaded.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    assert quick == {name: pytest.approx(full[f"retrieval/scenes/{name}"]) for name in [*RECALLS, "mean_recall@1"]}
    few = measure_retrieval(loaded.model, shards, "validation", loaded.tokenizer, ImageConfig(size=32), limit=2)
    assert few["text_to_image_recall@5"] == 1.0


def test_evaluation_mode_is_restored_after_an_error(loaded):
    loaded.model.train()
    with pytest.raises(ValueError, match="is empty"), evaluation_mode(loaded.model):
        _raise_in_evaluation_mode(loaded.model)
    assert loaded.model.training


def _raise_in_evaluation_mode(model):
    assert not model.training
    raise ValueError("is empty")


def test_several_captions_are_queries_and_references_and_the_first_gives_the_loss(embedder, shards):
    """As human captions are: each a query, all of them references. The loss needs one target, and depends on no draw."""
    one = list(eval_samples(shards, "test"))
    more = [
        replace(
            r,
            captions=(),
            web_captions=(*r.web_captions, f"another {i}"),
            synthetic_captions=(*r.synthetic_captions, Caption(f"A brief one. {i}", "brief")),
        )
        for i, r in enumerate(one)
    ]
    config = replace(CPU, long_captions=True)
    wanted, found = (run_image_pass(embedder, records, config) for records in (one, more))
    assert (found.nats, found.tokens, found.written) == (wanted.nats, wanted.tokens, wanted.written)
    assert found.references == [[r.synthetic_captions[0].text, f"A brief one. {i}"] for i, r in enumerate(one)]
    assert found.long_texts == [text for references in found.references for text in references]
    assert found.long_owners == [i for i in range(len(one)) for _ in range(2)]
    assert found.texts == [text for r in more for text in r.web_captions]
    metrics = evaluate_records(embedder, lambda: more, None, config).metrics
    assert (
        metrics["caption/scenes/loss"]
        == evaluate_records(embedder, lambda: one, None, config).metrics["caption/scenes/loss"]
    )
    assert "retrieval_long/scenes/mean_recall@1" in metrics
