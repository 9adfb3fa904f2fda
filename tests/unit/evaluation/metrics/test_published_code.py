"""Equality with the functions of CLIP_benchmark on the same model and samples."""

import importlib
import json

import open_clip
import pytest
import torch
from tests.peer_packages import install

from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.index import load_classes
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.evaluation.config import CompositionalityConfig, EvaluationConfig
from clips_pipeline.evaluation.evaluate import evaluate_model
from clips_pipeline.evaluation.inference.embed import open_image, retrieval_texts
from clips_pipeline.evaluation.metrics.compositionality import measure_compositionality
from clips_pipeline.evaluation.metrics.pair_files import SUBSETS, read_entries
from clips_pipeline.evaluation.model_loading import load_embedder

pytestmark = pytest.mark.slow
CPU = EvaluationConfig(device="cpu", examples=0)
ON_CPU = {"device": "cpu", "amp": False}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Import one of its metric modules."""
    folder = install(tmp_path_factory.mktemp("published"), "clip_benchmark==1.6.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield lambda name: importlib.import_module(f"clip_benchmark.metrics.{name}")


@pytest.fixture(scope="module")
def theirs(peer):
    """open_clip's own model, transform and tokenizer."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{peer}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{peer}")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "shards"
    prepare(ScenesSource(ScenesConfig(train=1, validation=1, test=200, image_size=32)), folder)
    return folder


class Batches(list):
    """Batches as a data loader gives them, with the class names where its users look."""

    def __init__(self, batches, classes=()):
        super().__init__(batches)
        self.dataset, self.classes = self, list(classes)


@pytest.mark.parametrize("pictures", ["scenes", "photos"])
def test_retrieval(published, peer, theirs, pictures, request):
    folder = request.getfixturevalue(pictures)
    model, transform, tokenizer = theirs
    records = list(eval_samples(folder, "test"))
    batch = torch.stack([transform(open_image(record.image)) for record in records])
    batches = Batches([(batch, [retrieval_texts(record) for record in records])])
    found = published("zeroshot_retrieval").evaluate(model, batches, tokenizer, recall_k_list=[1, 5, 10], **ON_CPU)
    metrics = evaluate_model(peer, folder, CPU).metrics
    for k in (1, 5, 10):
        # They name a direction by what is retrieved, not by the query.
        both = [found[f"text_retrieval_recall@{k}"], found[f"image_retrieval_recall@{k}"]]
        ways = ("image_to_text", "text_to_image")
        assert [metrics[f"retrieval/scenes/{way}_recall@{k}"] for way in ways] == pytest.approx(both, rel=1e-6)
        assert 0 < both[0] < 1


def test_zero_shot_classification(published, peer, theirs, scenes, monkeypatch):
    metric = published("zeroshot_classification")
    # It converts arrays of one element, which NumPy 2.4 refuses.
    monkeypatch.setattr(metric, "float", lambda array: array.item(), raising=False)
    model, transform, tokenizer = theirs
    records, classes = list(eval_samples(scenes, "test")), load_classes(scenes)
    batch = torch.stack([transform(open_image(record.image)) for record in records])
    batches = Batches([(batch, torch.tensor([record.label for record in records]))], classes.names)
    templates = [template.replace("{}", "{c}") for template in classes.templates]
    found = metric.evaluate(model, batches, tokenizer, classes.names, templates, **ON_CPU)
    metrics = evaluate_model(peer, scenes, CPU).metrics
    names = {"acc1": "accuracy@1", "acc5": "accuracy@5", "mean_per_class_recall": "mean_per_class_accuracy@1"}
    assert {key: metrics[f"zero_shot/scenes/{name}"] for key, name in names.items()} == pytest.approx(found, rel=1e-6)


def test_compositionality(published, peer, theirs, photos, tmp_path):
    """Make Winoground pairs of neighboring photos, and SugarCrepe entries with the neighbor's caption as the wrong one."""
    model, transform, tokenizer = theirs
    records = list(eval_samples(photos, "test"))
    pictures, texts = [open_image(record.image) for record in records], [record.captions[0] for record in records]
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "images" / f"{number}.png")
    pairs = list(zip(range(len(texts) - 1), range(1, len(texts)), strict=True))
    wino = [{"image_0": str(i), "image_1": str(j), "caption_0": texts[i], "caption_1": texts[j]} for i, j in pairs]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in wino))
    crepe = {
        str(i): {"filename": f"{i}.png", "caption": texts[i], "negative_caption": texts[j]}
        for i, j in pairs
        if texts[i] != texts[j]
    }
    for subset in SUBSETS:
        (tmp_path / f"{subset}.json").write_text(json.dumps(crepe))
    config = CompositionalityConfig(str(tmp_path), str(tmp_path / "images"), str(tmp_path))
    metrics = measure_compositionality(load_embedder(peer, CPU), read_entries(config)).metrics

    seen = torch.stack([transform(picture) for picture in pictures])
    evaluate = published("image_caption_selection").evaluate
    both = [(torch.stack([seen[i], seen[j]])[None], [[texts[i], texts[j]]]) for i, j in pairs]
    found = evaluate(model, Batches(both), tokenizer, **ON_CPU)
    names = {"text_acc": "text_score", "image_acc": "image_score", "acc": "group_score"}
    assert {key: metrics[f"winoground/all/{name}"] for key, name in names.items()} == pytest.approx(found, rel=1e-6)
    one = [(seen[i][None], [[texts[i], texts[j]]]) for i, j in pairs if texts[i] != texts[j]]
    found = evaluate(model, Batches(one), tokenizer, **ON_CPU)
    # With a single image, text score means that the right caption is more similar.
    assert metrics["sugarcrepe/add_att/accuracy"] == pytest.approx(found["text_acc"], rel=1e-6)
