"""Published data sets on the hub, through `kedro run`: what is prepared is what a training reads."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hub_server import TOKEN, HubServer, hub_server
from tests.kedro_project import kedro
from tests.unit.data.sources.test_join_tables import LONG, write_cc3m_wds, write_dreamlip
from tests.unit.data.sources.test_parquet import CAPTION, write_recap

from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples

pytestmark = pytest.mark.slow

RECAP, CC3M, DREAMLIP = "lmms-lab/LLaVA-ReCap-CC3M", "pixparse/cc3m-wds", "qidouxiong619/dreamlip_long_captions"
CSV = "cc3m_3long_3short_1raw_captions_url.csv"


def environment(project: Path, name: str, source: dict[str, Any]) -> Path:
    """Write an environment like `smoke` with another source; return its data."""
    conf = project / "conf" / name
    conf.mkdir()
    (conf / "globals.yml").write_text(yaml.safe_dump({"data_root": f"data/{name}", "results_root": f"data/{name}"}))
    parameters = yaml.safe_load((project / "conf/smoke/parameters.yml").read_text())
    parameters["prepare"] = {"source": source, "tokenizer": {"vocabulary_size": 256}}
    (conf / "parameters.yml").write_text(yaml.safe_dump(parameters))
    return project / "data" / name / "03_primary/shards"


@pytest.fixture
def hub(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_recap(tmp_path / "recap", files=4, rows=16)
    urls = write_cc3m_wds(tmp_path / "cc3m", shards=4, samples=16)
    (tmp_path / "dreamlip").mkdir()
    write_dreamlip(tmp_path / "dreamlip" / CSV, urls)
    with hub_server() as found:
        for name, folder in ((RECAP, "recap"), (CC3M, "cc3m"), (DREAMLIP, "dreamlip")):
            found.add_folder(name, tmp_path / folder)
        found.locked.add(f"datasets/{RECAP}")
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (project / "conf/local/credentials.yml").write_text(yaml.safe_dump({"storage": {"hf": {"token": TOKEN}}}))
        yield found


def test_data_sets_of_the_hub(project: Path, hub: HubServer) -> None:
    columns = {"key": "id", "web": CAPTION, "synthetic": {"LLaVA": CAPTION}}
    files = f"hf://datasets/{RECAP}/data/train-*.parquet"
    parquet = {"train": files, "columns": columns, "rows_per_task": 8, "split_seed": 1}
    parquet |= {"validation_fraction": 0.2, "test_fraction": 0.1}
    shards = environment(project, "recap", {"kind": "parquet", "parquet": parquet})
    shown = kedro(project, "--env", "recap", "--pipelines", "prepare")
    assert TOKEN not in shown
    index = load_index(shards)
    assert sum(index.split_samples(split) for split in index.splits) == 64

    fields = {"keys_repeat": True, "needed": False}
    train = f"hf://datasets/{CC3M}/cc3m-train-{{0000..0003}}.tar"
    shards = environment(project, "cc3m", {"kind": "img2dataset", "img2dataset": {"train": train, "fields": fields}})
    kedro(project, "--env", "cc3m", "--pipelines", "prepare,train", "--params", "train.samples=64,train.method=clip")
    assert load_index(shards).split_samples("train") == 32

    join = {
        "train": train,
        "keys_repeat": True,
        "tables": f"hf://datasets/{DREAMLIP}/{CSV}",
        "on": "url",
        "max_conflicts": 0,
        "columns": {"key": "Image Path", "web": "raw_caption", "synthetic": LONG},
    }
    shards = environment(project, "dreamlip", {"kind": "recaption", "recaption": join})
    kedro(project, "--env", "dreamlip", "--pipelines", "prepare")
    found = list(eval_samples(shards, "train"))
    assert len(found) == 32
    assert {caption.captioner for caption in found[0].synthetic_captions} == set(LONG)


def test_a_folder_joined_with_a_table(project: Path, tmp_path: Path) -> None:
    from tests.unit.data.samples import image_bytes

    images = tmp_path / "images"
    images.mkdir()
    with (tmp_path / "captions.tsv").open("w", newline="") as out:
        writer = csv.writer(out, delimiter="\t")
        writer.writerow(["file", "short", "long"])
        for number in range(60):
            (images / f"{number}.png").write_bytes(image_bytes(number))
            writer.writerow([f"{number}.png", f"web {number}", f"Long {number}."])
    join = {
        "train": str(images),
        "tables": str(tmp_path / "captions.tsv"),
        "held_out_fraction": 0.1,
        "memory_mib": 256,
        "columns": {"key": "file", "web": "short", "synthetic": "long"},
    }
    shards = environment(project, "images", {"kind": "recaption", "recaption": join})
    kedro(project, "--env", "images", "--pipelines", "prepare")
    index = load_index(shards)
    assert index.splits.keys() == {"train", "validation", "test"}
    assert sum(index.split_samples(split) for split in index.splits) == 60
