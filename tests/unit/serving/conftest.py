"""A small model, a table of its embeddings, and a server in this process or in one of its own."""

import asyncio
import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_model import small_model

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.embeddings.table import Rows, TableFacts, write_table
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.serving.app import make_app
from clips_pipeline.serving.config import Access, ServeConfig
from clips_pipeline.serving.inference import Inference
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece


def picture(color: str, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Return an image file."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    train_wordpiece(["a red square", "a blue circle", "the picture shows a green line"], 120, folder / "tokenizer")
    torch.manual_seed(1)
    return save_model(ClipsModel(small_model()), folder / "tokenizer", ImageConfig(size=32).to_mapping(), folder / "clips")


@pytest.fixture(scope="session")
def embedder(model_folder: Path) -> Embedder:
    loaded = load_model_folder(model_folder)
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)


TABLE_TEXTS = ["a red square", "a blue circle", "<script>window.hacked = 1; alert(1)</script> a green line \u202eabc"]
COLORS = ["red", "blue", "green"]


def write_index(path: Path, embedder: Embedder, digest: str) -> Path:
    """Write a table with three images and three texts."""
    images = embedder.images([Image.open(io.BytesIO(picture(color))) for color in COLORS])
    texts = embedder.texts(TABLE_TEXTS)
    with write_table(path, TableFacts(digest, images.shape[1])) as writer:
        writer.add(Rows(COLORS, ["image"] * 3, images.astype(np.float16), ["/secret/shard.tar"] * 3, [None] * 3))
        writer.add(Rows(COLORS, ["text"] * 3, texts.astype(np.float16), ["/secret/shard.tar"] * 3, TABLE_TEXTS))
    return path


@pytest.fixture(scope="session")
def index(model_folder: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index") / "table.parquet", embedder, model_digest(model_folder))


@dataclass
class Running:
    """A running app: an HTTP client for it, its model, and its event loop."""

    client: httpx.AsyncClient
    inference: Inference
    loop: asyncio.AbstractEventLoop

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self.client.request(method, path, **options), self.loop).result(60)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.call("POST", path, json=body, **options)

    def post_image(self, path: str, content: bytes, kind: str = "image/png") -> httpx.Response:
        return self.call("POST", path, content=content, headers={"Content-Type": kind})

    def run(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine function on the app's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(60)


@contextmanager
def app_running(
    folder: Path, index: Path | None = None, config: ServeConfig | None = None, access: Access | None = None
) -> Iterator[Running]:
    """Run the app on an event loop in a thread, without a socket."""
    config = config or ServeConfig()
    inference = Inference(folder, index, config)
    app: Any = make_app(inference, config, access or Access(hosts=frozenset({"localhost"})))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    async def start() -> Any:
        manager = app._app.router.lifespan_context(app._app)
        await manager.__aenter__()
        return manager

    manager = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield Running(client, inference, loop)
    finally:
        asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(60)
        asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def app(model_folder: Path, index: Path) -> Iterator[Running]:
    with app_running(model_folder, index) as running:
        yield running


@contextmanager
def server_process(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `clips-pipeline serve` on a free port; yield the process and the port. It is killed afterwards."""
    command = [sys.executable, "-m", "clips_pipeline", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), line
        yield process, int(line.split("http://")[1].split(" ")[0].rsplit(":", 1)[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
