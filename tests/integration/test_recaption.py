"""`embed`, `search`, `recaption` and a training on the new captions, through `kedro run` in a project."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tests.kedro_project import kedro

from clips_pipeline.data.shards.reader import eval_samples

pytestmark = pytest.mark.slow


def test_a_model_embeds_and_captions_data_that_another_training_reads(project: Path) -> None:
    # In one run: both come after the training whose model they use.
    shown = kedro(
        project,
        "--pipelines",
        "embed,recaption,prepare,train",
        "--env",
        "smoke",
        "--params",
        "recaption.split=validation,recaption.decoding=parallel,train.samples=512",
    )
    results = project / "data/smoke/07_model_output"
    assert "captions/s of one process" in shown
    table = pq.read_table(results / "embeddings.parquet", columns=["key", "kind"])
    assert table.num_rows == 64
    model = project / "data/smoke/06_models/clips"
    command = [sys.executable, "-m", "clips_pipeline", "search", results / "embeddings.parquet", "a red car"]
    found = subprocess.run([*command, "--model", model], cwd=project, capture_output=True, text=True, check=True)
    assert len(found.stdout.splitlines()) >= 10
    # The captions as data of another environment, joined by our source.
    captions = {
        row["key"]: row["re_caption"] for row in pq.read_table(results / "recaption/captions.parquet").to_pylist()
    }
    assert len(captions) == 32
    conf = project / "conf/second"
    conf.mkdir()
    (conf / "globals.yml").write_text(yaml.safe_dump({"data_root": "data/second", "results_root": "data/second"}))
    shards = "data/smoke/03_primary/shards"
    recaption = {
        "train": f"{shards}/validation/00000.tar",
        "validation": "none",
        "test": "none",
        "tables": "data/smoke/07_model_output/recaption/captions.parquet",
    }
    prepare = {"source": {"kind": "recaption", "recaption": recaption}, "tokenizer": {"vocabulary_size": 512}}
    (conf / "parameters.yml").write_text(yaml.safe_dump({"prepare": prepare}))
    kedro(project, "--pipelines", "prepare", "--env", "second")
    prepared = {
        one.key: one.synthetic_caption for one in eval_samples(project / "data/second/03_primary/shards", "train")
    }
    assert prepared == captions
