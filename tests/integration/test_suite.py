"""`kedro run --pipelines suite` on replicas of all kinds of sets, with a model of ours and one of open_clip."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from tests import suite_replicas as replicas
from tests.kedro_project import client, kedro
from tests.small_model import small_model
from tests.unit.evaluation.metrics.peer_model import save_peer

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.evaluation.suite.class_folders import wordnet_ids
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

pytestmark = [
    pytest.mark.slow,
    # MLflow uses SQLAlchemy in a way that the locked version deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]


def write_environment(project: Path, sets: dict[str, Any], **options: Any) -> None:
    conf = project / "conf/minis"
    conf.mkdir(exist_ok=True)
    (conf / "globals.yml").write_text("data_root: data/minis\nresults_root: data/minis\n")
    suite = {"sets": sets, "device": "cpu", "resamples": 100, **options}
    (conf / "parameters.yml").write_text(yaml.safe_dump({"suite": suite}, sort_keys=False))


def test_every_kind_of_set_and_two_models(project: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "tokenizer"
    train_wordpiece([replicas.caption(number) for number in range(50)], 300, vocabulary)
    torch.manual_seed(0)
    ours = save_model(ClipsModel(small_model()), vocabulary, ImageConfig(size=32).to_mapping(), tmp_path / "clips")
    theirs = save_peer(tmp_path / "peer")
    ids = wordnet_ids("imagenet_a")
    sets = {
        "coco": {**replicas.karpathy(tmp_path / "coco"), "images": 6, "captions": 31},
        "flickr30k": {**replicas.clip_benchmark(tmp_path / "wds_flickr30k"), "images": 6, "captions": 12},
        "urban1k": {**replicas.urban1k(tmp_path), "images": 6},
        "docci": {**replicas.docci(tmp_path), "images": 6},
        "dci": {**replicas.dci(tmp_path), "images": 6},
        "iiw": {**replicas.iiw(tmp_path), "images": 6},
        "sharegpt4v": {**replicas.sharegpt4v(tmp_path), "images": 6},
        "flair": {**replicas.caption_list(tmp_path), "images": 6},
        "sugarcrepe": {**replicas.sugarcrepe(tmp_path), "entries": 42},
        "sugarcrepe_pp": {**replicas.sugarcrepe_pp(tmp_path), "entries": 30},
        "winoground": {**replicas.winoground(tmp_path), "entries": 6},
        "mmvp_vlm": {**replicas.mmvp_vlm(tmp_path), "entries": 6},
        "imagenet_a": {
            **replicas.class_folders(tmp_path / "imagenet-a", {ids[0]: 2, ids[7]: 2}, ".jpg"),
            "classes": "imagenet_a",
        },
        "objectnet": replicas.objectnet(tmp_path),
        "vtab_x": replicas.clip_benchmark(tmp_path / "vtab", [0, 1, 2, 0, 1, 2], ("cat", "dog", "cow")),
        "absent": {"kind": "dci", "group": "long captions", "path": str(tmp_path / "nowhere"), "images": 7805},
    }
    published = tmp_path / "published.yml"
    published.write_text("results: [{name: P, source: S, values: {retrieval/coco/image_to_text_recall@1: 0.5}}]")
    write_environment(project, sets, published=str(published), processes=2, precision="bf16", batch_size=32)
    arguments = ("--pipelines", "suite", "--env", "minis", "--params", f"suite.models={ours}::{theirs}")
    shown = kedro(project, *arguments)
    assert "absent, with the reasons in the table: absent" in shown
    assert "open the table of the suite" in shown
    report = project / "data/minis/08_reporting/suite"
    table = pd.read_csv(report / "suite.csv")
    assert set(table["set"]) == set(sets) - {"absent"}
    assert set(table.model) == {f"{tmp_path.name}/clips", f"{tmp_path.name}/peer", "P"}
    assert "nowhere does not exist" in (report / "suite.md").read_text()
    # The run has the metrics of both models, the table, and the per-item results of each set.
    (experiment,) = {one.experiment_id for one in client(project).search_experiments() if one.name != "Default"}
    (run,) = client(project).search_runs([experiment], "attributes.run_name = 'suite minis'")
    assert f"{tmp_path.name}/clips/retrieval/coco/mean_recall_at_1" in run.data.metrics
    assert {one.path for one in client(project).list_artifacts(run.info.run_id, "suite")} >= {
        "suite/suite.html",
        "suite/suite.tex",
    }
    folders = client(project).list_artifacts(run.info.run_id, "per_item")
    assert {len(client(project).list_artifacts(run.info.run_id, folder.path)) for folder in folders} == {15}
    # Nothing is computed twice, and a subset is taken from the same results.
    results = project / "data/minis/07_model_output/suite/results"
    times = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert len(times) == 30
    again = kedro(project, *arguments[:-1], f"{arguments[-1]},suite.only=[coco]")
    assert "2 of 2 results exist" in again
    assert {path: path.stat().st_mtime_ns for path in results.glob("*.json")} == times
    # A set of another size than published ends the run before work, with both numbers.
    sets["iiw"]["images"] = 400
    write_environment(project, sets)
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", *arguments],
        cwd=project, capture_output=True, text=True, env={**os.environ, "COLUMNS": "240"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "suite.sets.iiw: images: 6 found, 400 published" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_environment_of_the_suite_lists_all_sets_as_absent(project: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "tokenizer"
    train_wordpiece(["a red cube"], 300, vocabulary)
    ours = save_model(ClipsModel(small_model()), vocabulary, ImageConfig(size=32).to_mapping(), tmp_path / "clips")
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipelines", "suite", "--env", "suite", "--params", f"suite.models={ours}"],
        cwd=project, capture_output=True, text=True, env={**os.environ, "COLUMNS": "240"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "none of the 36 sets is here" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
