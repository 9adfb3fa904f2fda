"""Models on a suite: values by hand, resume, processes, precision, and models of open_clip."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import suite_replicas as replicas
from tests.hub_server import hub_server
from tests.servers import http_server
from tests.small_model import small_model
from tests.unit.evaluation.conftest import IMAGES

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder, open_image
from clips_pipeline.evaluation.suite import run
from clips_pipeline.evaluation.suite.config import SuiteConfig
from clips_pipeline.evaluation.suite.run import SuiteModel, run_suite
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.clips import ClipsModel


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return {
        "urban1k": replicas.urban1k(folder, 12),
        "coco": replicas.karpathy(folder / "coco"),
        "flickr30k": replicas.clip_benchmark(folder / "wds_flickr30k"),
        "vtab_x": replicas.clip_benchmark(folder / "wds_vtab-x", [0, 1, 2, 0, 1, 2], ("cat", "dog", "cow")),
        "sugarcrepe_pp": replicas.sugarcrepe_pp(folder),
        "mmvp_vlm": replicas.mmvp_vlm(folder),
        "docci": {"kind": "docci", "group": "long captions", "path": str(folder / "nowhere")},
    }


@pytest.fixture(scope="module")
def model(model_folder):
    return SuiteModel.at("ours", model_folder)


def suite(sets, **options) -> SuiteConfig:
    return from_mapping(SuiteConfig, {"sets": sets, "device": "cpu", "batch_size": 5, **options}, "suite")


def values(outcome, model):
    return {name: value for one in outcome.present for name, value in outcome.load(one.name, model).metrics.items()}


def naive_recall(images, texts, owners):
    """Return recall@1 in both directions, by loops."""
    to_text = [
        max((image @ text for text, owner in zip(texts, owners, strict=True) if owner == number))
        > max((image @ text for text, owner in zip(texts, owners, strict=True) if owner != number))
        for number, image in enumerate(images)
    ]
    to_image = [
        text @ images[owner] > max(text @ image for number, image in enumerate(images) if number != owner)
        for text, owner in zip(texts, owners, strict=True)
    ]
    return np.mean(to_text), np.mean(to_image)


def test_values_equal_a_naive_computation(sets, model, loaded, tmp_path):
    outcome = run_suite(suite(sets), [model], Storage(), tmp_path, None)
    assert [one.name for one in outcome.absent] == ["docci"]
    found = values(outcome, model)
    embedder = Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)
    for opened in outcome.present:
        if opened.images is None:
            continue
        read = list(opened.images.records())
        images = embedder.images(open_image(one.image) for one in read)
        if opened.images.classes is None:
            texts = embedder.texts(text for one in read for text in one.captions)
            owners = [number for number, one in enumerate(read) for _ in one.captions]
            to_text, to_image = naive_recall(images, texts, owners)
            assert found[f"retrieval/{opened.name}/image_to_text_recall@1"] == pytest.approx(to_text)
            assert found[f"retrieval/{opened.name}/text_to_image_recall@1"] == pytest.approx(to_image)
        else:
            names = []
            for name in opened.images.classes.names:
                prompts = embedder.texts(template.replace("{}", name) for template in opened.images.classes.templates)
                names.append(prompts.mean(0) / np.linalg.norm(prompts.mean(0)))
            right = [np.argmax(np.stack(names) @ image) == one.label for image, one in zip(images, read, strict=True)]
            assert found[f"zero_shot/{opened.name}/accuracy@1"] == pytest.approx(np.mean(right))
    assert {"sugarcrepe_pp/mean/image_to_text_accuracy", "mmvp_vlm/camera_perspective/accuracy"} <= set(found)


def test_two_processes_equal_one(sets, model, tmp_path):
    one = run_suite(suite(sets), [model], Storage(), tmp_path / "one", tmp_path / "cache")
    two = run_suite(suite(sets, processes=2), [model], Storage(), tmp_path / "two", None)
    assert values(one, model) == values(two, model)
    for opened in one.present:
        rows = [outcome.load(opened.name, model).rows for outcome in (one, two)]
        assert rows[0] == rows[1]


def test_a_second_run_computes_nothing_and_changed_files_are_computed_again(model, tmp_path, monkeypatch):
    chosen = {"urban1k": replicas.urban1k(tmp_path / "sets"), "mmvp_vlm": replicas.mmvp_vlm(tmp_path / "sets")}
    first = run_suite(suite(chosen), [model], Storage(), tmp_path, tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in first.results.values()}
    with monkeypatch.context() as patch:
        patch.setattr(run, "open_embedder", None)
        second = run_suite(suite(chosen), [model], Storage(), tmp_path, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in second.results.values()} == times
    # An image with another content, under the same name.
    replicas.write_picture(tmp_path / "sets" / "Urban1k" / "image" / "1.jpg", 77)
    third = run_suite(suite(chosen), [model], Storage(), tmp_path, tmp_path / "cache")
    same, other = ("mmvp_vlm", model.digest), ("urban1k", model.digest)
    assert third.results[same] == first.results[same]
    assert third.results[other] != first.results[other]
    before, after = (outcome.load("urban1k", model).rows[0]["set_version"] for outcome in (first, third))
    assert before != after


def test_embeddings_are_kept_and_damaged_results_are_named(sets, model, tmp_path, monkeypatch):
    chosen = {"urban1k": sets["urban1k"]}
    first = run_suite(suite(chosen), [model], Storage(), tmp_path / "a", tmp_path / "cache")
    expected = first.load("urban1k", model)

    def refuse(*_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(TowerEmbedder, "image_batch", refuse)
    monkeypatch.setattr(TowerEmbedder, "texts", refuse)
    second = run_suite(suite(chosen), [model], Storage(), tmp_path / "b", tmp_path / "cache")
    assert second.load("urban1k", model) == expected
    (path,) = second.results.values()
    path.write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        second.load("urban1k", model)


def test_bf16_is_near_fp32_and_has_results_of_its_own(sets, model, tmp_path):
    fp32 = run_suite(suite(sets), [model], Storage(), tmp_path, tmp_path / "cache")
    bf16 = run_suite(suite(sets, precision="bf16"), [model], Storage(), tmp_path, tmp_path / "cache")
    assert fp32.precision == "fp32"
    assert set(fp32.results.values()).isdisjoint(bf16.results.values())
    device = torch.device("cpu")
    arrays = []
    for precision in ("fp32", "bf16"):
        embedder = run.open_embedder(model, device, 4, precision)
        texts = embedder.texts([replicas.caption(number) for number in range(6)])
        pictures = embedder.images(open_image(replicas.picture(number)) for number in range(6))
        arrays.append(np.concatenate([texts, pictures]))
        np.testing.assert_allclose(np.linalg.norm(arrays[-1], axis=1), 1, atol=1e-6)
    assert 0 < np.abs(arrays[0] - arrays[1]).max() < 0.03
    assert (arrays[0] * arrays[1]).sum(1).min() > 0.999
    assert values(fp32, model).keys() == values(bf16, model).keys()


def test_models_of_open_clip(sets, model, peer, tmp_path):
    theirs = SuiteModel.at("theirs", peer)
    outcome = run_suite(suite({"urban1k": sets["urban1k"]}), [model, theirs], Storage(), tmp_path, None)
    keys = [set(outcome.load("urban1k", one).metrics) for one in (model, theirs)]
    assert keys[0] == keys[1]
    versions = {outcome.load("urban1k", one).rows[0]["set_version"] for one in (model, theirs)}
    assert len(versions) == 1


def test_remote_sets_equal_local_ones(sets, model, tmp_path):
    local = run_suite(suite({"flickr30k": sets["flickr30k"]}), [model], Storage(), tmp_path / "local", None)
    with http_server(Path(sets["flickr30k"]["path"])) as server:
        remote = {
            "flickr30k": {**sets["flickr30k"], "path": server.url, "images": 6, "captions": 12},
            "vtab_y": {**sets["flickr30k"], "path": f"{server.url}/nowhere"},
        }
        found = run_suite(suite(remote), [model], Storage(), tmp_path / "remote", None)
    assert [one.name for one in found.absent] == ["vtab_y"]
    assert values(found, model) == values(local, model)
    # The digest is of the content, so that results of both can be compared.
    versions = [outcome.load("flickr30k", model).rows[0]["set_version"] for outcome in (local, found)]
    assert versions[0] == versions[1]


def test_sets_on_the_hub_equal_local_ones(sets, model, tmp_path):
    local = run_suite(suite({"flickr30k": sets["flickr30k"]}), [model], Storage(), tmp_path / "local", None)
    with hub_server() as hub:
        root = Path(sets["flickr30k"]["path"])
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        hub.files["datasets/clip-benchmark/wds_flickr30k"] = files
        quick = StorageConfig(retries=1, back_off_s=0.01)
        storage = Storage(quick, {"hf": {"endpoint": hub.url, "token": False}})
        address = "hf://datasets/clip-benchmark/wds_flickr30k"
        remote = {
            "flickr30k": {**sets["flickr30k"], "path": address, "images": 6, "captions": 12},
            "other_split": {**sets["flickr30k"], "path": address, "split": "train"},
        }
        found = run_suite(suite(remote), [model], storage, tmp_path / "remote", None)
        assert [one.name for one in found.absent] == ["other_split"]
        assert values(found, model) == values(local, model)
        # A set that the account may not read is no absent set.
        hub.gated.add("datasets/clip-benchmark/wds_flickr30k")
        with pytest.raises((ConfigError, StorageError), match="accept the conditions"):
            run_suite(suite(remote), [model], storage, tmp_path / "gated", None)


def test_threads_give_the_same_images_in_the_same_order(model):
    device = torch.device("cpu")
    pictures = [replicas.picture(number) for number in range(20)]
    one, four = (run.open_embedder(model, device, 20, "fp32", threads) for threads in (1, 4))
    assert torch.equal(one.open_and_stack(pictures, open_image), four.open_and_stack(pictures, open_image))
    with pytest.raises(UndecodableImageError):
        four.open_and_stack([*pictures, b"none"], open_image)


def test_results_of_threads_come_in_order_up_to_an_error_and_items_are_read_a_batch_ahead(model):
    embedder = run.open_embedder(model, torch.device("cpu"), 20, "fp32", 4)

    def invert(number):
        time.sleep(0.01 / (1 + number))  # the later, the sooner
        return 1 / (50 - number)

    results = embedder.ahead(invert, range(100))
    assert list(itertools.islice(results, 50)) == [1 / (50 - number) for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    items = itertools.count(100)
    abandoned = embedder.ahead(invert, items)
    next(abandoned)
    abandoned.close()
    assert next(items) == 100 + 20


def test_a_wrong_count_that_only_reading_shows(sets, model, tmp_path):
    chosen = {"flickr30k": {**sets["flickr30k"], "images": 6, "captions": 5000}}
    with pytest.raises(ConfigError, match=r"^suite\.sets\.flickr30k: captions: 12 found, 5,000 published"):
        run_suite(suite(chosen), [model], Storage(), tmp_path, None)
    assert not [*(tmp_path / "results").glob("*.json")]


def test_an_image_that_cannot_be_decoded_names_the_set(model, tmp_path):
    mapping = replicas.urban1k(tmp_path)
    (tmp_path / "Urban1k" / "image" / "4.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"^suite\.sets\.urban1k: .*4"):
        run_suite(suite({"urban1k": mapping}), [model], Storage(), tmp_path / "out", None)


KILLED = """
import json, os, sys, time
from pathlib import Path
from clips_pipeline.config import from_mapping
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError
from clips_pipeline.evaluation.suite import run
from clips_pipeline.evaluation.suite.config import SuiteConfig

done = 0
measure = run.measure_set
def slow(*arguments):
    global done
    if done == 2:
        Path(sys.argv[3], "waiting").touch()
        time.sleep(600)
    done += 1
    return measure(*arguments)
run.measure_set = slow
config = from_mapping(SuiteConfig, json.loads(sys.argv[1]), "suite")
run.run_suite(config, [run.SuiteModel.at("ours", Path(sys.argv[2]))], Storage(), Path(sys.argv[3]), None)
"""


def test_a_killed_run_goes_on_where_it_was(sets, model, tmp_path):
    mapping = {"sets": sets, "device": "cpu", "batch_size": 5}
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, json.dumps(mapping), str(model.path), str(folder)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while not (folder / "waiting").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (folder / "results").glob("*.json")}
    assert len(kept) == 2
    resumed = run_suite(suite(sets), [model], Storage(), folder, None)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = run_suite(suite(sets), [model], Storage(), tmp_path / "whole", None)
    assert values(resumed, model) == values(whole, model)


def test_the_same_model_twice_has_one_result(sets, model, tmp_path):
    again = replace(model, name="again")
    outcome = run_suite(suite({"urban1k": sets["urban1k"]}), [model, again], Storage(), tmp_path, None)
    assert len(set(outcome.results.values())) == 1


def test_a_model_without_a_text_tower_is_refused(sets, tokenizer_folder, tmp_path):
    config = small_model()
    captioner = replace(config.captioner, inputs="tokens")
    config = replace(config, captioner=captioner, embed_dim=config.vision.width, text_tower=False)
    folder = save_model(ClipsModel(config), tokenizer_folder, IMAGES.to_mapping(), tmp_path / "captioning")
    with pytest.raises(ConfigError, match=r"^suite\.models: writer has no text tower"):
        run_suite(suite(sets), [SuiteModel.at("writer", folder)], Storage(), tmp_path / "out", None)
