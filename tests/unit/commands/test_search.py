"""Commands `search` and `dedup`: results and page from shards and images, and one line for what cannot work."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tests.unit.batch_inference.data import inputs_of, make_model
from tests.unit.data.samples import record, write_shard
from tests.unit.embeddings.tables import make_rows, write

from clips_pipeline import load
from clips_pipeline.batch_inference.config import EmbedConfig
from clips_pipeline.batch_inference.embed import embed
from clips_pipeline.commands.dedup import dedup
from clips_pipeline.commands.search import search
from clips_pipeline.interop.digest import model_digest

HOSTILE = "<script>alert(1)</script> \u202e \x1b[31m"


def noise(seed: int) -> bytes:
    """Return an image that an untrained model tells from others."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).resize((32, 32)).save(
        stream, "png"
    )
    return stream.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a shard, an image, and a table of both."""
    folder = tmp_path_factory.mktemp("search")
    make_model(folder)
    (folder / "data").mkdir()
    records = [
        record(n, web_caption=HOSTILE if n == 3 else f"web {n}", image=noise(n), extension="png") for n in range(6)
    ]
    write_shard(folder / "data/0.tar", records, "0.tar")
    (folder / "photo.png").write_bytes(records[4].image)
    embed(inputs_of(folder / "data"), folder / "clips", EmbedConfig(device="cpu"), folder / "table.parquet")
    return folder


def run(place: Path, *arguments: str) -> Result:
    model = [] if "--model" in arguments else ["--model", str(place / "clips")]
    return CliRunner().invoke(search, [str(place / "table.parquet"), *model, *arguments])


def test_an_image_finds_itself_and_a_text_its_caption(place: Path) -> None:
    found = run(place, "--image", str(place / "photo.png"), "-k", "2")
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("k0004")
    assert float(lines[0].split()[0]) > 0.99
    found = run(place, "web 2", "-k", "1", "--kind", "text")
    assert found.output.split(maxsplit=1)[1] == "k0002  web 2\n"
    assert run(place, "web 2", "-k", "1", "--kind", "text", "--engine", "faiss").output == found.output


def test_the_page_has_pictures_and_escapes_captions(place: Path) -> None:
    page = place / "out/page.html"
    found = run(place, HOSTILE, "--kind", "both", "-k", "12", "--html", str(page))
    assert found.exit_code == 0, found.output
    assert "\x1b[31m" not in found.output
    html = page.read_text()
    assert html.count("data:image/webp;base64,") == 12
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "[U+202E]" in html
    assert "\u202e" not in html
    assert "default-src 'none'; img-src data:" in html
    run(place, "--image", str(place / "photo.png"), "--html", str(page))
    assert 'alt="the query"' in page.read_text()


def test_a_source_that_is_gone_or_no_image_gives_no_picture(place: Path, tmp_path: Path) -> None:
    """A table is data of others: it must not make the page show other files."""
    rows = make_rows(4)
    size = load(place / "clips").model.config.embed_dim
    vectors = np.eye(size, dtype=np.float32)[:4]
    (tmp_path / "secret.tar").write_text("root:x:0:0")
    (tmp_path / "secret.png").write_text("root:x:0:0")
    sources = ["/etc/passwd", str(tmp_path / "secret.tar"), str(tmp_path / "secret.png"), "s3://bucket/0.tar"]
    table = write(
        tmp_path / "table.parquet",
        replace(rows, vectors=vectors, sources=sources, kinds=["image"] * 4, texts=[None] * 4),
        model=model_digest(place / "clips"),
    )
    page = tmp_path / "page.html"
    found = CliRunner().invoke(search, [str(table), "x", "--model", str(place / "clips"), "--html", str(page)])
    assert found.exit_code == 0, found.output
    assert page.read_text().count("no picture") == 4
    assert "root:x" not in page.read_text()


def test_what_cannot_work_is_one_line(place: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path, seed=3)
    for arguments, message in (
        ((), "give one query: a text, or --image FILE"),
        (("a", "--image", "b"), "give one query"),
        (("  ",), "the text is empty"),
        (("a", "--model", str(other)), "its vectors are of the model"),
        (("a", "--model", str(tmp_path / "nowhere")), "no exported model"),
        (("--image", str(tmp_path / "nowhere.png")), "No such file or directory; give the path of an image"),
        (("--image", str(place / "data/0.tar")), "give a JPEG, PNG or WebP file"),
    ):
        found = run(place, *arguments)
        assert found.exit_code == 2
        assert message in found.output
        assert "Traceback" not in found.output
        assert len(found.output.splitlines()) == 1
    found = CliRunner().invoke(search, [str(place / "photo.png"), "a", "--model", str(place / "clips")])
    assert "no Parquet file, or a damaged one" in found.output


def test_dedup_writes_the_file_that_prepare_takes(place: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        dedup, [str(place / "table.parquet"), str(tmp_path / "drop.parquet"), "--drop-above", "0.5"]
    )
    assert found.exit_code == 0, found.output
    assert "of 6 rows of kind image are near-duplicates above 0.5" in found.output
    assert f"prepare.filters.drop_table={tmp_path / 'drop.parquet'}" in found.output
    found = CliRunner().invoke(dedup, [str(place / "photo.png"), str(tmp_path / "other"), "--drop-above", "0.5"])
    assert (found.exit_code, (tmp_path / "other").exists()) == (2, False)
    content = (place / "table.parquet").read_bytes()
    table = str(place / "table.parquet")
    found = CliRunner().invoke(dedup, [table, table, "--drop-above", "0.5"])
    assert "is a table of embeddings, which would be lost; give another OUT" in found.output
    assert (place / "table.parquet").read_bytes() == content


def test_the_command_needs_no_project(place: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "clips_pipeline",
        "search",
        "table.parquet",
        "web 1",
        "--model",
        "clips",
        "-k",
        "1",
    ]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1].split()[0]) <= 1.0
