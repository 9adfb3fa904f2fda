"""docs/how-to/reproduce.md, command by command, on small replicas of all its files in their published form.

The replicas of the hub's repositories are on a local HTTP server, those of ImageNet in a local S3 server. The test changes sizes
only: of the model, the training, the number of shards, and the published counts of the sets.
"""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ruamel.yaml import YAML
from tests import recaption_replicas as replicas
from tests.hub_server import HubServer, hub_server
from tests.servers import S3Server, s3_server

pytestmark = pytest.mark.slow

ENVIRONMENT = "cc3m-b16"
SHARDS, EACH = 6, 20
WITHOUT_CAPTION = (3, 50)
CSV_FILE = "cc3m_3long_3short_1raw_captions_url.csv"

SMALL: dict[str, Any] = {
    "prepare": {"processes": 2},
    "train": {
        "model": {
            "size": {
                "base": "tiny",
                "vision": {"image_size": None, "width": 32, "heads": 2},
                "text": {"width": 32, "heads": 2},
                "captioner": {"width": 32, "heads": 2},
                "embed_dim": 32,
                "vocab_size": 30_522,
            },
            "image_size": 32,
        },
        "samples": 64,
        "batch_size": 16,
        "optimizer": {"warmup_samples": 16},
        "launch": {"device": "cpu", "precision": "fp32", "chunk_size": 8, "loader_workers": 1},
        "every": {"log": 1, "evaluate": 2, "checkpoint": 2},
    },
}


@pytest.fixture(scope="module")
def photos(fixtures_dir: Path) -> list[replicas.Photo]:
    return replicas.read_photos(fixtures_dir)


@pytest.fixture(scope="module")
def hub(photos: list[replicas.Photo], fixtures_dir: Path) -> Iterator[HubServer]:
    """The hub with the repositories that the page names."""
    with hub_server() as found:
        vocabulary = (fixtures_dir / "bert_base_uncased_vocab.txt").read_bytes()
        found.files["google-bert/bert-base-uncased"] = {"vocab.txt": vocabulary}
        found.files["datasets/pixparse/cc3m-wds"] = replicas.conceptual_captions(photos, "cc3m", SHARDS, EACH)
        numbers = [number for number in range(SHARDS * EACH + 10) if number not in WITHOUT_CAPTION]
        found.files["datasets/qidouxiong619/dreamlip_long_captions"] = {
            CSV_FILE: replicas.dreamlip_csv(photos, numbers)
        }
        for name in ("wds_mscoco_captions", "wds_flickr30k"):
            found.files[f"datasets/clip-benchmark/{name}"] = replicas.retrieval_set(photos)
        yield found


@pytest.fixture(scope="module")
def store(photos: list[replicas.Photo]) -> Iterator[S3Server]:
    """An object store with the replica of ImageNet."""
    with s3_server("sets") as found:
        client = boto3.client("s3", **_client_options(found))
        for name, content in replicas.classification_set(photos, ("cat", "dog", "train")).items():
            client.put_object(Bucket="sets", Key=f"wds_imagenet1k/{name}", Body=content)
        client.close()
        yield found


def _client_options(store: S3Server) -> dict[str, Any]:
    options = store.options["s3"]
    return {
        "aws_access_key_id": options["key"],
        "aws_secret_access_key": options["secret"],
        **options["client_kwargs"],
    }


def commands(repository: Path) -> list[str]:
    """Return the commands of the page, in order."""
    page = (repository / "docs/how-to/reproduce.md").read_text(encoding="utf-8")
    found = [line.strip() for line in re.findall(r"^ {4}\S.*$", page, re.MULTILINE)]
    assert all(line.startswith(".venv/bin/") for line in found), "every indented line of the page is a command"
    return [line.removeprefix(".venv/bin/") for line in found]


def shrink(project: Path) -> None:
    """Change the sizes of the environments; everything else is as in the repository."""
    path = project / "conf" / ENVIRONMENT / "parameters.yml"
    parameters = _merged(read_yaml(path), SMALL)
    joined = parameters["prepare"]["source"]["recaption"]
    joined["train"] = joined["train"].replace("{0000..0575}", f"{{0000..{SHARDS - 1:04d}}}")
    assert joined["train"].endswith(f"{SHARDS - 1:04d}}}.tar")
    write_yaml(path, parameters)
    path = project / "conf/suite/parameters.yml"
    parameters = read_yaml(path)
    for name, (images, captions) in {"coco": (29, 145), "flickr30k": (29, 145), "imagenet": (29, None)}.items():
        parameters["suite"]["sets"][name] |= {"images": images, "captions": captions}
    parameters["suite"] |= {"device": "cpu", "resamples": 100}
    write_yaml(path, parameters)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read YAML 1.2, as Kedro does: PyYAML reads the key `on` as true."""
    found: dict[str, Any] = YAML(typ="safe").load(path)
    return found


def write_yaml(path: Path, parameters: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def test_every_command_of_the_page(
    project: Path, repository: Path, hub: HubServer, store: S3Server, tmp_path: Path
) -> None:
    shrink(project)
    credentials = project / "conf/local/credentials.yml"
    credentials.write_text(yaml.safe_dump({"storage": store.options}), encoding="utf-8")
    environment = hub.environment(tmp_path / "hub", token=None) | {"COLUMNS": "200"}
    shown = {}
    for line in commands(repository):
        program, *arguments = [part.strip('"') for part in line.split()]
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            cwd=project,
            capture_output=True,
            text=True,
            env=environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        shown[line] = done.stdout + done.stderr

    # The join: two samples without a caption, ten rows without a sample; two shards are held out.
    statistics = json.loads((project / "data/cc3m/03_primary/shards/statistics.json").read_text())
    splits = statistics["splits"].values()
    assert sum(split["kept"] for split in splits) == SHARDS * EACH - len(WITHOUT_CAPTION)
    assert sum(split["filtered"].get("no_table_row", 0) for split in splits) == len(WITHOUT_CAPTION)
    look = shown[f"kedro data look --env {ENVIRONMENT}"]
    for captioner in ("InstructBLIP", "LLaVA-1.5", "ShareGPT4V"):
        assert captioner in look
    assert "nothing is trained" in shown[f"kedro run --env {ENVIRONMENT} --pipelines train --params dry_run=true"]
    # Eight ranks have the same result, so the finished training is not run again.
    runs = list((project / f"data/{ENVIRONMENT}/06_models/runs").iterdir())
    assert len([run for run in runs if run.is_dir()]) == 1

    report = project / "data/suite/08_reporting/suite"
    with (report / "suite.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {row["metric"] for row in rows if row["model"] == ENVIRONMENT}
    assert {"retrieval/coco/image_to_text_recall@1", "zero_shot/imagenet/accuracy@1"} <= measured
    for peer in ("COSMOS B/16, CC3M", "FLAIR B/16, CC3M"):
        assert peer in (report / "suite.md").read_text(encoding="utf-8")


def test_the_page_shows_the_published_figures(repository: Path) -> None:
    page = (repository / "docs/how-to/reproduce.md").read_text(encoding="utf-8")
    keys = [
        "retrieval/coco/image_to_text_recall@1",
        "retrieval/coco/text_to_image_recall@1",
        "retrieval/flickr30k/image_to_text_recall@1",
        "retrieval/flickr30k/text_to_image_recall@1",
        "zero_shot/imagenet/accuracy@1",
    ]
    for model in yaml.safe_load((repository / "conf/suite/published.yml").read_text())["results"]:
        cells = [f"{100 * model['values'][key]:.1f}" if key in model["values"] else "" for key in keys]
        found = [row for row in page.splitlines() if [cell.strip() for cell in row.split("|")[2:-1]] == cells]
        assert found, f"{model['name']}: {cells}"
