"""Every command of docs/tutorials, in the order of the page, on small data: sizes are reduced, everything else is as written."""

import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docs.tools import screenshots
from PIL import Image
from tests import recaption_replicas as replicas
from tests.hub_server import HubServer, hub_server
from tests.integration.test_reproduce import read_yaml, write_yaml

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its title (a file), its text."""

    language: str
    title: str
    text: str


def blocks(repository: Path, page: str) -> list[Block]:
    text = (repository / "docs/tutorials" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def run(project: Path, script: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a block as a reader would, in the project's folder, and return what it printed."""
    if not (project / ".venv").exists():
        (project / ".venv").symlink_to(BIN.parent)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "240", "PATH": f"{BIN}:{os.environ['PATH']}", **(environment or {})},
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def test_own_pictures(project: Path, repository: Path) -> None:
    shown = ""
    for block in blocks(repository, "own-pictures"):
        if block.language == "bash":
            shown += run(project, block.text)
        elif block.language == "yaml":
            (project / block.title).parent.mkdir(exist_ok=True)
            (project / block.title).write_text(block.text.replace("samples: 20000", "samples: 1280"))
        elif block.language == "python":
            said = run(project, f".venv/bin/python - <<'END'\n{block.text}\nEND")
            # NumPy pads numbers that have fewer digits than others, on either side.
            row = r"\[ *-?0\.\d+ +-?0\.\d+ *\]"
            assert re.search(rf"\[{row}\n {row}\]\n\[.+\]", said), said
        elif block.language == "text":
            for line in block.text.splitlines():
                assert line in shown, line
        else:
            keys = {*json.loads(block.text)[0]}
    # The pictures that are written have the form that the page shows.
    assert keys == {*json.loads((project / "data/01_raw/captions.json").read_text())[0]}
    assert len(re.findall(r"^0\.\d{4} +example-\d{7}$", shown, re.M)) == 10
    metrics = json.loads((project / "data/mine/08_reporting/metrics.json").read_text())
    assert 0 < metrics["retrieval/mine/mean_recall@1"] <= 1
    # Twenty steps teach no retrieval, but already which words are frequent.
    assert metrics["caption/mine/loss"] < math.log(1000) - 0.1


def test_first_run_and_its_pictures(project: Path, repository: Path, tmp_path: Path) -> None:
    """Trains, searches, starts every interface, and takes the pictures that the pages show."""
    study = "data/smoke/07_model_output/search/study.db"
    for block in blocks(repository, "first-run"):
        for command in block.text.splitlines():
            # The environment is there: the stamp counts as up to date.
            line = command.replace("make", f"make -o .venv/.installed ENV=smoke STUDY={study}", 1)
            if command in ("make viz", "make mlflow-ui", "make dashboard"):
                assert b"<html" in _first_page(project, line)
            else:
                run(project, line)
    shown = {path.name for path in (repository / "docs/images").glob("*.png")}
    if shutil.which("chromedriver") is None:
        pytest.skip("chromedriver is not installed; CI has it")
    run(project, f".venv/bin/python -m docs.tools.screenshots --env smoke --out {tmp_path}")
    taken = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(taken) == shown
    assert max(taken.values()) <= screenshots.MAX_BYTES
    for name in taken:
        with Image.open(tmp_path / name) as picture:
            assert picture.width == screenshots.WIDTH
            colors = picture.convert("L").getcolors(1 << 20)
            assert colors
            assert max(count for count, _ in colors) < 0.99 * picture.width * picture.height, f"{name} is empty"


def _first_page(project: Path, line: str) -> bytes:
    """Start a server by a command, read its first page, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = 20_000 + probe.getsockname()[1] % 20_000  # Kedro-Viz refuses high ports
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line} PORT={port}"],
        cwd=project,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            assert process.poll() is None, f"{line} has ended"
            try:
                with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                    content: bytes = answer.read()
                    return content.lower()
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{line} does not answer")
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.fixture(scope="module")
def photos(fixtures_dir: Path) -> list[replicas.Photo]:
    return replicas.read_photos(fixtures_dir)


ROWS, EACH = 120, 20


@pytest.fixture(scope="module")
def web(photos: list[replicas.Photo]) -> Iterator[str]:
    """The hosts of the photos: `/NUMBER.jpg`; one in ten is gone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.strip("/").removesuffix(".jpg"))
            self.send_response(404 if number % 10 == 9 else 200)
            self.end_headers()
            if number % 10 != 9:
                self.wfile.write(photos[number % len(photos)].image)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def hub(photos: list[replicas.Photo], web: str) -> Iterator[HubServer]:
    """The hub with the files that the page names: rows of Recap-DataComp-1B in its published columns, and Flickr30K."""
    rows = [
        {
            "url": f"{web}/{number}.jpg",
            "re_caption": ". ".join(text.strip().rstrip(".") for text in photos[number % len(photos)].captions) + ".",
            "org_caption": f"{photos[number % len(photos)].captions[number % 5]} {number}",
            "sha256": "0" * 64,
            "key": f"{number:012d}",
            "re_clip_score": 0.3,
            "org_clip_score": 0.2,
            "re_length": 50,
            "org_length": 10,
            "re_gpt4v_score": 4,
            "org_gpt4v_score": 3,
        }
        for number in range(ROWS)
    ]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    with hub_server() as found:
        name = "data/train_data/train-00000-of-02719.parquet"
        found.files["datasets/UCSC-VLAA/Recap-DataComp-1B"] = {name: stream.getvalue()}
        found.files["datasets/clip-benchmark/wds_flickr30k"] = replicas.retrieval_set(photos)
        yield found


def test_web_photos(
    project: Path, repository: Path, hub: HubServer, photos: list[replicas.Photo], tmp_path: Path
) -> None:
    _shrink(project, len(photos))
    environment = hub.environment(tmp_path / "hub", token=None) | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    shown = ""
    for block in blocks(repository, "web-photos"):
        assert block.language == "bash"
        script = block.text.replace("number_sample_per_shard 1000", f"number_sample_per_shard {EACH}")
        if "pip install" in script:
            install, script = re.split(r"(?<=1\.47\.0\n)", script)
            done = subprocess.run(["bash", "-ec", install], cwd=project, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"img2dataset cannot be installed here: {done.stderr[-300:]}")
        shown += run(project, script, environment)
    assert "nothing is trained" in shown
    statistics = json.loads((project / "data/recap/03_primary/shards/statistics.json").read_text())
    kept = {name: split["kept"] for name, split in statistics["splits"].items()}
    assert kept == {"train": 4 * EACH - 8, "validation": EACH - 2, "test": EACH - 2}
    metrics = json.loads((project / "data/recap-mini/08_reporting/metrics.json").read_text())
    assert "retrieval/recap/mean_recall@1" in metrics
    assert "flickr30k" in (project / "data/suite/08_reporting/suite/suite.csv").read_text()


def _shrink(project: Path, photos: int) -> None:
    """Reduce the sizes of the environments; everything else is as in the repository."""
    path = project / "conf/recap-mini/parameters.yml"
    parameters = read_yaml(path)
    shards = parameters["prepare"]["source"]["img2dataset"]
    assert shards["train"].endswith("{00000..00059}.tar")
    shards["train"] = shards["train"].replace("00059", f"{ROWS // EACH - 1:05d}")
    parameters["prepare"]["tokenizer"]["vocabulary_size"] = 400
    narrow = {"width": 32, "heads": 2, "depth": 1}
    parameters["train"] |= {
        "model": {
            "size": {"base": "mini", "vision": narrow, "text": narrow, "captioner": narrow, "vocab_size": 400},
            "image_size": 32,
        },
        "samples": 64,
        "batch_size": 16,
        "every": {"log": 1, "evaluate": 2, "checkpoint": 2},
    }
    parameters["train"]["optimizer"]["warmup_samples"] = 16
    parameters["train"]["launch"] = {"device": "cpu", "chunk_size": 8, "loader_workers": 1}
    write_yaml(path, parameters)
    path = project / "conf/suite/parameters.yml"
    parameters = read_yaml(path)
    parameters["suite"]["sets"]["flickr30k"] |= {"images": photos, "captions": 5 * photos}
    parameters["suite"] |= {"device": "cpu", "resamples": 100}
    write_yaml(path, parameters)
