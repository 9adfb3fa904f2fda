"""Endpoints: results equal those of the model, one error for each kind of bad input, and nothing of the server in it."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.served import COLORS, Running, app_running, picture, write_index

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.inference.caption_examples import write_caption
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.serving.config import Access, ServeConfig
from clips_pipeline.serving.inference import Inference


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


RED, BLUE = encoded(picture("red")), encoded(picture("blue", "JPEG"))


def opened(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_embeddings_are_those_of_the_model(app: Running, embedder: Embedder, model_folder: Path) -> None:
    images = app.post("/embed/image", {"images": [RED, BLUE]}).json()
    assert images["model"] == model_digest(model_folder)
    assert images["errors"] == []
    assert np.allclose(images["embeddings"], embedder.images(map(opened, (RED, BLUE))), atol=1e-6)
    raw = app.post_image("/embed/image", picture("red")).json()
    assert np.allclose(raw["embeddings"], images["embeddings"][:1], atol=1e-6)
    texts = app.post("/embed/text", {"texts": ["a red square", "Ein Quadrat"]}).json()
    assert np.allclose(texts["embeddings"], embedder.texts(["a red square", "Ein Quadrat"]), atol=1e-6)


def test_similarities_and_captions(app: Running, embedder: Embedder) -> None:
    texts = ["a red square", "", "a blue circle"]
    found = app.post("/similarity", {"images": [RED, encoded(b"x")], "texts": texts}).json()
    wanted = embedder.images([opened(RED)]) @ embedder.texts([texts[0], texts[2]]).T
    assert np.allclose([found["similarity"][0][0], found["similarity"][0][2]], wanted[0], atol=1e-6)
    assert found["similarity"][0][1] is None
    assert found["similarity"][1] == [None, None, None]
    assert [(error["field"], error["item"], error["reason"]) for error in found["errors"]] == [
        ("images", 1, "unsupported_image"),
        ("texts", 1, "empty_text"),
    ]
    web = ["", "a blue circle"]
    captions = app.post("/caption", {"images": [RED, BLUE], "web_captions": web}).json()["captions"]
    one_by_one = [
        write_caption(embedder.model, embedder.towers.image_transform(opened(image)), text, embedder.tokenizer)[1]
        for image, text in zip((RED, BLUE), web, strict=True)
    ]
    assert captions == one_by_one
    assert app.post_image("/caption", picture("red")).json()["captions"] == one_by_one[:1]


def test_search_finds_the_rows_of_the_table(app: Running, index: Path) -> None:
    found = app.post("/search", {"images": [RED], "texts": ["a blue circle", ""], "k": 2}).json()
    assert [len(hits) if hits else hits for hits in found["neighbors"]] == [2, 2, None]
    assert found["neighbors"][1][0]["text"] == "a blue circle"
    assert found["neighbors"][1][0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert found["errors"][0]["reason"] == "empty_text"
    images = app.post("/search", {"texts": ["a blue circle"], "k": 100, "kind": "image"}).json()["neighbors"][0]
    assert sorted(hit["key"] for hit in images) == sorted(COLORS)
    answer = app.post_image("/search", picture("green", "WEBP"))
    assert answer.json()["neighbors"][0][0] == {
        "key": "green", "kind": "image", "score": pytest.approx(1.0, abs=1e-3), "text": None, "picture": None,
    }  # fmt: skip
    assert str(index.parent) not in answer.text  # the table's sources are paths of the server
    refused = app.post("/search", {"texts": ["a"], "pictures": True})
    assert (refused.status_code, refused.json()["error"]["reason"]) == (404, "no_pictures")


def test_pictures_of_the_rows_are_shown_where_allowed(model_folder: Path, index: Path) -> None:
    with app_running(model_folder, index, pictures=True) as app:
        answer = app.post("/search", {"images": [RED], "k": 3, "kind": "image", "pictures": True})
        (hits,) = answer.json()["neighbors"]
        assert {hit["key"]: hit["picture"] is None for hit in hits} == {"red": False, "blue": False, "green": True}
        red = opened(hits[0]["picture"])
        assert (red.format, red.size, hits[0]["key"]) == ("WEBP", (40, 30), "red")
        assert str(index.parent) not in answer.text
        assert app.post("/search", {"texts": ["a"], "k": 51, "pictures": True}).status_code == 422


def test_one_bad_item_does_not_fail_the_others(app: Running, embedder: Embedder) -> None:
    images = [encoded(b"GIF89a no picture"), RED, "no base64!", encoded(picture("red")[:60])]
    found = app.post("/embed/image", {"images": images}).json()
    assert [vector is None for vector in found["embeddings"]] == [True, False, True, True]
    assert [error["reason"] for error in found["errors"]] == ["unsupported_image", "not_base64", "undecodable_image"]
    found = app.post("/embed/text", {"texts": ["a red square", "\u200b", "word " * 20_000, "x" * 20_000]}).json()
    assert np.allclose(found["embeddings"][0], embedder.texts(["a red square"])[0], atol=1e-6)
    assert [error["reason"] for error in found["errors"]] == ["empty_text", "caption_too_long", "word_too_long"]


def pixels(width: int, height: int) -> str:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return encoded(stream.getvalue())


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/embed/text", {"texts": [""]}, 422, "empty_text"),
        ("/embed/text", {"texts": []}, 422, "invalid"),
        ("/embed/text", {"texts": ["a"] * 10_000}, 413, "too_many_items"),
        ("/embed/text", {"texts": "a"}, 422, "invalid"),
        ("/embed/text", {"texts": [1] * 10_000}, 422, "invalid"),
        ("/embed/text", {"text": ["a"]}, 422, "invalid"),
        ("/embed/text", [], 422, "invalid"),
        ("/embed/image", {"images": [pixels(10_000, 10_000)]}, 422, "too_many_pixels"),
        ("/embed/image", {"images": [{"bytes": "x"}]}, 422, "invalid"),
        ("/similarity", {"images": [RED], "texts": [""]}, 422, "empty_text"),
        ("/caption", {"images": [RED], "web_captions": ["a", "b"]}, 422, "invalid"),
        ("/search", {"k": 3}, 422, "invalid"),
        ("/search", {"texts": ["a"], "k": 0}, 422, "invalid"),
        ("/search", {"texts": ["a"], "k": 101}, 422, "invalid"),
        ("/search", {"texts": ["a"], "kind": "audio"}, 422, "invalid"),
        ("/nowhere", {}, 404, "not_found"),
    ],
)
def test_bad_requests_have_one_clear_error(app: Running, path: str, body: Any, status: int, reason: str) -> None:
    answer = app.post(path, body)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason), answer.text
    assert len(answer.text) < 700
    assert not any(word in answer.text for word in ("Traceback", ".py", "/work", "0x", "pydantic"))


@pytest.mark.parametrize(
    ("content", "kind", "status", "reason"),
    [
        (b'{"texts": ', "application/json", 400, "no_json"),
        (b"[" * 100_000, "application/json", 400, "no_json"),
        (b"\xff\xfe\x00", "application/json", 400, "no_json"),
        (b'{"texts": ["\\ud800"]}', "application/json", 400, "no_json"),
        (b'{"texts": [' + b"0," * 600_000 + b"0]}", "application/json", 413, "too_many_items"),
        (b'{"texts": ["a"]}', "text/plain", 415, "content_type"),
        (b"texts=a", "application/x-www-form-urlencoded", 415, "content_type"),
        (picture("red"), "image/tiff", 415, "content_type"),
    ],
)
def test_malformed_bodies(app: Running, content: bytes, kind: str, status: int, reason: str) -> None:
    answer = app.post_image("/embed/text", content, kind)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason), answer.text


def test_a_body_that_is_no_image_is_refused(app: Running) -> None:
    for content, reason in ((b"", "undecodable_image"), (b"no picture", "unsupported_image")):
        answer = app.post_image("/embed/image", content)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (422, reason)


def test_a_token_is_needed_for_all_but_the_open_paths(model_folder: Path) -> None:
    token = "a-token-for-this-test"  # noqa: S105
    with app_running(model_folder, access=Access(token)) as app:
        for path in ("/", "/docs", "/openapi.json", "/healthz"):
            assert app.client.get(path).status_code == 200
        assert app.client.get("/metrics").status_code == 401
        for header in (
            {},
            {"Authorization": f"Bearer {token}x"},
            {"Authorization": f"Basic {token}"},
            {"Authorization": "Bearer é"},
        ):
            answer = app.post("/embed/text", {"texts": ["a"]}, headers={k: v.encode() for k, v in header.items()})
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        good = {"Authorization": f"Bearer {token}"}
        assert app.post("/embed/text", {"texts": ["a"]}, headers=good).status_code == 200
        assert app.post("/embed/text", {"texts": ["a"]}, headers=good | {"Host": "other.example"}).status_code == 200


def test_requests_under_another_name_are_refused_without_a_token(app: Running) -> None:
    answer = app.client.get("/healthz", headers={"Host": "rebound.example"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (421, "wrong_host")


def test_bodies_above_the_limit_are_not_read(model_folder: Path) -> None:
    with app_running(model_folder, config=ServeConfig(max_body_bytes=2_000, max_bytes_under_way=2_000)) as app:
        assert app.post("/embed/text", {"texts": ["a" * 3_000]}).status_code == 413
        # Without a length in the header.
        parts = iter([b'{"texts": ["', b"a" * 1_500, b"b" * 1_500])
        answer = app.client.post("/embed/text", content=parts, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert app.post("/embed/text", {"texts": ["a"]}).status_code == 200


def test_headers_metrics_and_description(app: Running) -> None:
    answer = app.post("/embed/text", {"texts": ["a"]})
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    metrics = app.client.get("/metrics").text
    assert 'clips_requests_total{endpoint="/embed/text",status="200"}' in metrics
    assert 'clips_batch_items_bucket{kind="text",le="1.0"}' in metrics
    # A client cannot make labels.
    app.client.get("/made-up-by-a-client")
    assert "made-up" not in app.client.get("/metrics").text
    described = app.client.get("/openapi.json").json()
    assert {"/embed/image", "/embed/text", "/similarity", "/caption", "/search", "/healthz", "/metrics"} == set(
        described["paths"]
    )
    keys = described["paths"]["/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(keys) == {"images", "texts", "k", "kind", "pictures"}
    page = app.client.get("/docs").text
    assert "POST /caption" in page
    assert "http" not in page.replace("https://", "http://").split("<body>")[1]


def test_what_the_model_or_the_server_lacks_is_said(tmp_path: Path, model_folder: Path, app: Running) -> None:
    with app_running(model_folder) as without:
        answer = without.post("/search", {"texts": ["a"]})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "no_index")


def test_an_index_of_another_model_and_damaged_models_are_refused_at_the_start(
    tmp_path: Path, model_folder: Path, embedder: Embedder
) -> None:
    table = write_index(tmp_path / "table.parquet", embedder, "0" * 64)
    with pytest.raises(ConfigError, match=r"table\.parquet: its vectors are of the model 000000000000"):
        Inference(model_folder, table, ServeConfig())
    with pytest.raises(ConfigError, match=r"nowhere\.parquet: no such file"):
        Inference(model_folder, tmp_path / "nowhere.parquet", ServeConfig())
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        Inference(tmp_path, None, ServeConfig())
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in model_folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    content = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"model\.safetensors: cannot be read"):
        Inference(damaged, None, ServeConfig())
    (damaged / "model.safetensors").write_bytes(content[:-4000] + b"\xff" * 4000)
    with pytest.raises(ConfigError, match="not finite"):
        Inference(damaged, None, ServeConfig())
