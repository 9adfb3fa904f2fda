"""Class names of the set or of ImageNet, and reference captions."""

from dataclasses import replace

import pytest
from tests.unit.evaluation.sample_images import png

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.records import Caption, Record
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model, evaluate_records
from clips_pipeline.evaluation.inference.image_pass import run_image_pass
from clips_pipeline.evaluation.metrics.caption_scores import corpus_scores, score_captions
from clips_pipeline.evaluation.metrics.zero_shot import imagenet_classes

PLAIN = EvaluationConfig(device="cpu", examples=0)


def test_imagenet_has_its_thousand_names_and_eighty_templates():
    classes = imagenet_classes()
    assert (len(classes.names), len(classes.templates)) == (1000, 80)
    # The first and the last label of ILSVRC 2012.
    assert (classes.names[0], classes.names[999]) == ("tench", "toilet paper")
    assert "itap of a {}." in classes.templates


def test_a_set_with_other_classes_is_refused(model_folder, shards):
    with pytest.raises(ConfigError, match=r"evaluate\.class_names: .* 22 classes, ImageNet has 1000; set it to `set`"):
        evaluate_model(model_folder, shards, replace(PLAIN, class_names="imagenet"))


def test_labels_without_names_use_those_of_imagenet(model_folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["image,caption,long_caption,label"]
    for number in range(8):
        (images / f"{number}.png").write_bytes(png(number))
        rows.append(f"{number}.png,a web caption,A long one.,{125 * number}")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    prepare(
        FolderSource(FolderConfig(str(images), str(tmp_path / "captions.csv"), evaluate_on="train")),
        tmp_path / "shards",
    )
    result = evaluate_model(model_folder, tmp_path / "shards", replace(PLAIN, class_names="imagenet"))
    ranks = [row["zero_shot_rank"] for row in result.per_item]
    assert len(set(ranks)) > 1
    assert max(ranks) >= 22
    assert result.metrics["zero_shot/scenes/accuracy@5"] == sum(rank < 5 for rank in ranks) / 8


def test_captions_are_scored_by_human_captions_if_configured(embedder):
    people = [("a cube", "one red cube"), ("a ball",), ()]
    records = [
        Record(f"k{i}", png(i), "png", ("web",), (Caption(f"long caption {i}" if i else ""),), captions=texts)
        for i, texts in enumerate(people)
    ]
    human = replace(PLAIN, caption_references="human", missing_captions="skip")
    found = run_image_pass(embedder, records, human)
    # The third image has only a long caption and the first none, so different images are scored under the two settings.
    assert found.references == [["a cube", "one red cube"], ["a ball"]]
    assert found.captioned == [0, 1]
    assert len(found.written) == 2
    assert run_image_pass(embedder, records, PLAIN).references == [["long caption 1"], ["long caption 2"]]
    metrics = evaluate_records(embedder, lambda: records, None, human).metrics
    expected = corpus_scores(score_captions(found.written, found.references))
    assert {name: metrics[f"caption/scenes/{name}"] for name in expected} == expected
