"""A small model, a table of its embeddings, and a server in this process or in one of its own."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tests.small_model import small_model

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.embeddings.table import Rows, TableFacts, write_table
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.serving.app import make_app
from clips_pipeline.serving.config import Access, ServeConfig
from clips_pipeline.serving.inference import Inference
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece


def make_model(folder: Path) -> Path:
    """Write a small model with random weights, and return its folder."""
    train_wordpiece(["a red square", "a blue circle", "the picture shows a green line"], 120, folder / "tokenizer")
    torch.manual_seed(1)
    model = ClipsModel(small_model())
    return save_model(model, folder / "tokenizer", ImageConfig(size=32).to_mapping(), folder / "clips")


def picture(color: str, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Return an image file."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, kind)
    return stream.getvalue()


def opened(content: bytes) -> Image.Image:
    """Return an image of a file's content."""
    return Image.open(io.BytesIO(content))


TABLE_TEXTS = ["a red square", "a blue circle", "<script>window.hacked = 1; alert(1)</script> a green line \u202eabc"]
COLORS = ["red", "blue", "green"]


def write_index(path: Path, embedder: Embedder, digest: str) -> Path:
    """Write a table with three images and three texts."""
    images = embedder.images(opened(picture(color)) for color in COLORS)
    texts = embedder.texts(TABLE_TEXTS)
    sources = [str(path.with_name(f"{color}.png")) for color in COLORS]
    for color, source in zip(COLORS[:2], sources, strict=False):  # one file is missing
        Path(source).write_bytes(picture(color))
    with write_table(path, TableFacts(digest, images.shape[1])) as writer:
        writer.add(Rows(COLORS, ["image"] * 3, images.astype(np.float16), sources, [None] * 3))
        writer.add(Rows(COLORS, ["text"] * 3, texts.astype(np.float16), ["/secret/shard.tar"] * 3, TABLE_TEXTS))
    return path


@dataclass
class Running:
    """The app with its model; its event loop runs in a thread of the client."""

    client: TestClient
    inference: Inference

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.client.post(path, json=body, **options)

    def post_image(self, path: str, content: bytes, kind: str = "image/png") -> Any:
        return self.client.post(path, content=content, headers={"Content-Type": kind})


@contextmanager
def app_running(
    folder: Path,
    index: Path | None = None,
    config: ServeConfig | None = None,
    access: Access | None = None,
    *,
    pictures: bool = False,
) -> Iterator[Running]:
    """Run the app without a socket."""
    config = config or ServeConfig()
    inference = Inference(folder, index, config, pictures=pictures)
    app = make_app(inference, config, access or Access(hosts=frozenset({"localhost"})))
    with TestClient(app, base_url="http://localhost") as client:
        yield Running(client, inference)


@contextmanager
def server_process(
    folder: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
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
