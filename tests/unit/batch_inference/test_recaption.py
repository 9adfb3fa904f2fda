"""`recaption`: the captions of the model in shards and table, joined by our source, resumable, hostile input."""

import io
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.unit.batch_inference.data import HERE, StuckTask, inputs_of, kill_at, make_model, make_shards
from tests.unit.data.samples import image_bytes, record, write_shard

from clips_pipeline import load
from clips_pipeline.batch_inference.config import RecaptionRunConfig
from clips_pipeline.batch_inference.inputs import Inputs
from clips_pipeline.batch_inference.recaption import FACTS_FILE, TABLE_FILE, recaption
from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.evaluation.inference.caption_decoding import write_captions

CONFIG = RecaptionRunConfig(device="cpu", batch_size=4)


def files_of(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened.getmembers()}  # type: ignore[union-attr]


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("decoding", ["beam", "parallel"])
def test_shards_and_table_hold_the_captions_of_the_model(
    tmp_path: Path, model: Path, shards: Path, decoding: Any
) -> None:
    out = recaption(inputs_of(shards), model, replace(CONFIG, decoding=decoding), tmp_path / "new")
    rows = pq.read_table(out / TABLE_FILE).to_pylist()
    assert [row["key"] for row in rows] == [f"k{n:04d}" for n in range(15)]
    clips = load(model)
    images = [clips.image_transform(Image.open(io.BytesIO(image_bytes(n)))) for n in range(15)]
    expected = write_captions(
        clips.model, torch.stack(images), [f"web {n}" for n in range(15)], clips.tokenizer.wrapped, decoding=decoding
    )
    assert [row["re_caption"] for row in rows] == expected
    assert len(set(expected)) > 1
    for number in range(3):
        old, new = files_of(shards / f"{number:05d}.tar"), files_of(out / "shards" / f"{number:05d}.tar")
        assert list(new) == list(old)
        for name, content in old.items():
            if not name.endswith(".json"):
                assert new[name] == content
        facts = json.loads(new[f"k{5 * number:04d}.json"])
        assert facts == {**json.loads(old[f"k{5 * number:04d}.json"]), "re_caption": expected[5 * number]}
    assert json.loads((out / FACTS_FILE).read_text())["samples"] == 15


def test_our_source_joins_the_table(tmp_path: Path, model: Path, shards: Path) -> None:
    out = recaption(inputs_of(shards), model, replace(CONFIG, shards=False), tmp_path / "new")
    assert not (out / "shards").exists()
    captions = {row["key"]: row["re_caption"] for row in pq.read_table(out / TABLE_FILE).to_pylist()}
    config = RecaptionConfig(train=f"{shards}/{{00000..00002}}.tar", tables=str(out / TABLE_FILE))
    prepare(RecaptionSource(config, HERE, tmp_path / "tables"), tmp_path / "prepared")
    for split in ("train", "validation", "test"):
        for sample in eval_samples(tmp_path / "prepared", split):
            assert sample.synthetic_caption == captions[sample.key]


def test_other_fields_and_hashes_stay_and_a_captioner_of_coca_works(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "0.tar", "w") as tar:
        for name, content in (
            ("a.jpg", image_bytes(1, kind="JPEG")),
            (
                "a.json",
                b'{"org_caption": "web", "url": "x", "sha256": "abc", "odd": "\\ud800", "synthetic_captions": ["old"]}',
            ),
            ("a.cls", b"3"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    coca = make_model(tmp_path / "coca", "coca")
    out = recaption(inputs_of(data), coca, CONFIG, tmp_path / "new")
    (row,) = pq.read_table(out / TABLE_FILE).to_pylist()
    new = files_of(out / "shards/00000.tar")
    assert sorted(new) == ["a.cls", "a.jpg", "a.json"]
    facts = json.loads(new["a.json"])
    assert (facts["url"], facts["org_caption"], facts["re_caption"]) == ("x", "web", row["re_caption"])
    assert row["sha256"] == "abc"
    # Otherwise the former captions would be read in place of the new one.
    assert "synthetic_captions" not in facts
    with pytest.raises(ConfigError, match="of method coca; give beam"):
        recaption(inputs_of(data), coca, replace(CONFIG, decoding="parallel"), tmp_path / "other")


def test_repeated_keys_odd_hashes_and_a_file_system_without_links(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("x", "y"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "a.png").write_bytes(image_bytes(len(folder)))

    def refuse(*names: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    out = recaption(inputs_of(tmp_path / "photos"), model, CONFIG, tmp_path / "new")
    assert len(files_of(out / "shards/00000.tar")) == 4
    assert "captions.parquet: 1 of 2 keys are repeated" in caplog.text
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "0.tar", "w") as tar:
        for name, content in (("a.png", image_bytes(1)), ("a.json", b'{"sha256": "\\ud800"}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    out = recaption(inputs_of(data), model, CONFIG, tmp_path / "odd")
    assert pq.read_table(out / TABLE_FILE)["sha256"].to_pylist() == [None]


def test_a_model_that_was_replaced_in_its_folder_is_loaded_again(tmp_path: Path, shards: Path) -> None:
    folder = make_model(tmp_path / "first")
    first = recaption(inputs_of(shards), folder, CONFIG, tmp_path / "new")
    captions = pq.read_table(first / TABLE_FILE)["re_caption"].to_pylist()
    other = make_model(tmp_path / "second", seed=1)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    again = recaption(inputs_of(shards), folder, CONFIG, tmp_path / "new")
    assert pq.read_table(again / TABLE_FILE)["re_caption"].to_pylist() != captions
    expected = recaption(inputs_of(shards), other, CONFIG, tmp_path / "expected")
    assert pq.read_table(again / TABLE_FILE).equals(pq.read_table(expected / TABLE_FILE))


def test_folders_of_images_become_shards(tmp_path: Path, model: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(image_bytes(1))
    (photos / "b.jpeg").write_bytes(b"nothing")
    out = recaption(inputs_of(photos), model, replace(CONFIG, max_skipped_fraction=0.5), tmp_path / "new")
    assert sorted(files_of(out / "shards/00000.tar")) == ["a.json", "a.png"]


def test_what_cannot_work_is_refused_and_nothing_is_written(tmp_path: Path, model: Path, shards: Path) -> None:
    plain = make_model(tmp_path / "clip", "clip")
    with pytest.raises(ConfigError, match=r"recaption.model: .*clip: has no captioner; give a model of"):
        recaption(inputs_of(shards), plain, CONFIG, tmp_path / "new")
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "0.tar", [record(0, image=b"no image")], "0.tar")
    with pytest.raises(ConfigError, match="recaption: no sample has a result"):
        recaption(inputs_of(data), model, CONFIG, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds files that recaption did not make"):
        recaption(inputs_of(shards), model, CONFIG, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").exists()


def _recaption_stuck(data: Path, model: Path, flag: Path, out: Path) -> None:
    found = inputs_of(data)
    tasks = [found.tasks[0], StuckTask(found.tasks[1], flag), *found.tasks[2:]]
    recaption(Inputs(tasks, found.fingerprint), model, replace(CONFIG, batch_size=2), out)


def test_a_killed_run_resumes_and_equals_an_uninterrupted_one(tmp_path: Path, model: Path) -> None:
    shards = make_shards(tmp_path / "shards", 3, 6)
    config = replace(CONFIG, batch_size=2)
    out, flag = tmp_path / "killed", tmp_path / "flag"
    kill_at(flag, _recaption_stuck, shards, model, flag, out)
    assert not out.exists()
    (work,) = (tmp_path / ".killed.parts").iterdir()
    assert (work / "000000.json").exists()
    assert not (work / "000001.json").exists()
    recaption(inputs_of(shards), model, config, out)
    whole = recaption(inputs_of(shards), model, config, tmp_path / "whole")
    assert content_of(out) == content_of(whole)


def test_a_run_that_was_killed_between_the_two_renames_loses_nothing(tmp_path: Path, model: Path, shards: Path) -> None:
    out = recaption(inputs_of(shards), model, CONFIG, tmp_path / "new")
    content = content_of(out)
    out.rename(tmp_path / ".new.before")
    recaption(inputs_of(shards), model, CONFIG, out)
    assert content_of(out) == content
    assert not (tmp_path / ".new.before").exists()
