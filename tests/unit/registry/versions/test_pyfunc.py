"""A registered model embeds exactly as the exported folder does, also in a new process."""

import ast
import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from PIL import Image

import clips_pipeline
from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.evaluation.inference.embed import Embedder, open_image
from clips_pipeline.interop.folder import load_model_folder, save_model
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES
from clips_pipeline.registry.versions.packaging import REQUIRED, save_package
from clips_pipeline.registry.versions.register import RegistryConfig, register_model
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

TEXTS = ["a red square", "ein blaues Quadrat – straße!", "word " * 100, "[CLS] is text"]

# A user's script, which uses only mlflow and the URI.
USER = """
import json, sys, warnings
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
rows = json.load(sys.stdin)
images = [bytes.fromhex(x) for x in rows["images"]]
found = {
    "images": model.predict(pd.DataFrame({"image": images}))["embedding"].tolist(),
    "texts": model.predict(pd.DataFrame({"text": rows["texts"]}))["embedding"].tolist(),
}
import clips_pipeline
found["code"] = clips_pipeline.__file__
found["sources"] = [m.__file__ for name, m in sys.modules.items() if name.startswith("clips_pipeline.")]
found["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
json.dump(found, open(sys.argv[3], "w"))
"""


def picture(color, size, kind):
    stream = io.BytesIO()
    image = Image.effect_noise(size, 60).convert("RGB")
    image.paste(color, (2, 2, 20, 30))
    image.save(stream, kind)
    return stream.getvalue()


def huge_png() -> bytes:
    """Return a PNG of 144 megapixels in 140 kB."""
    rows = b"\0" * (12_000 // 8 + 1)
    squeezer = zlib.compressobj()
    pixels = b"".join(squeezer.compress(rows) for _ in range(12_000)) + squeezer.flush()

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_wordpiece(["a red square", "a blue circle", "the picture shows a green line"], 120, folder / "tokenizer")
    torch.manual_seed(1)
    tiny = SIZES["tiny"]
    config = replace(tiny, vision=replace(tiny.vision, image_size=32, depth=2), text=replace(tiny.text, depth=2))
    return save_model(ClipsModel(config), folder / "tokenizer", ImageConfig(size=32).to_mapping(), folder / "clips")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [picture("red", (64, 48), "PNG"), picture("blue", (32, 32), "JPEG"), picture("green", (90, 33), "WEBP")]


@pytest.fixture(scope="module")
def packaged(trained, tmp_path_factory) -> mlflow.pyfunc.PyFuncModel:
    out = tmp_path_factory.mktemp("packaged") / "model"
    save_package(trained, out)
    return mlflow.pyfunc.load_model(str(out))


@pytest.fixture
def champion(store, trained) -> str:
    """URI of a registered model, in a store that all tests of this file share."""
    register_model(trained, {"a/set/m": 0.5}, config=RegistryConfig("embedder", metric="a/set/m"))
    return "models:/embedder@champion"


def embedder_of(folder):
    loaded = load_model_folder(folder)
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer)


def test_a_new_process_embeds_identically(champion, store, trained, pictures, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    # Hide the installed package, so that only the registered model's code can be used.
    done = subprocess.run(
        [sys.executable, "-c", _without_installed_package() + USER, store, champion, str(tmp_path / "found.json")],
        input=json.dumps({"images": [data.hex() for data in pictures], "texts": TEXTS}),
        cwd=tmp_path / "elsewhere",
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW_TRACKING"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    here = embedder_of(trained)
    assert np.float32(found["texts"]).tolist() == here.texts(TEXTS).tolist()
    assert np.float32(found["images"]).tolist() == here.images(open_image(data) for data in pictures).tolist()
    assert not Path(found["code"]).is_relative_to(Path(clips_pipeline.__file__).parents[1])
    assert not {"composer", "kedro", "optuna", "webdataset"} & set(found["modules"])
    assert len(found["sources"]) > 10
    assert _imported_by(found["sources"]) <= set(REQUIRED)


def test_images_and_texts_can_be_mixed_and_base64(champion, trained, pictures):
    model = mlflow.pyfunc.load_model(champion)
    here = embedder_of(trained)
    table = pd.DataFrame(
        {"image": [pictures[0], None, pictures[1]], "text": [None, "a red square", None]}, index=[7, 3, 5]
    )
    result = model.predict(table)
    assert result.index.tolist() == [7, 3, 5]
    image_NE = here.images([open_image(pictures[0]), open_image(pictures[1])])
    assert result["embedding"][7] == image_NE[0].tolist()
    assert result["embedding"][5] == image_NE[1].tolist()
    assert result["embedding"][3] == here.texts(["a red square"])[0].tolist()
    text = pd.DataFrame({"image": [base64.b64encode(pictures[0]).decode()]})
    assert model.predict(text)["embedding"][0] == here.images([open_image(pictures[0])])[0].tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [None]}, "row 0: give an image or a text; found neither"),
        ({"text": ["a"], "image": [b"x"]}, "row 0: give an image or a text; found both"),
        ({"image": [b"x"]}, "row 0: the image is no JPEG, PNG or WebP file"),
        ({"image": ["no base64!"]}, "row 0: the image is text but not valid base64"),
        ({"text": [3]}, "row 0: the text is no text"),
        ({"text": [" "]}, "row 0: the text is empty"),
        ({"text": ["word " * 20_000]}, "row 0: the text is too long"),
        ({"texts": ["a"]}, "unknown columns: texts; known: image, text"),
        ({"text": ["a"], "label": [1]}, "unknown columns: label"),
    ],
)
def test_a_request_of_which_nothing_can_be_embedded_is_refused(packaged, columns, message):
    with pytest.raises(mlflow.exceptions.MlflowException, match=message):
        packaged.predict(pd.DataFrame(columns))


def test_one_bad_row_does_not_fail_the_others(packaged, trained):
    table = pd.DataFrame({"image": [b"x", None, None, huge_png()], "text": [None, "a red square", "", None]})
    found = packaged.predict(table)
    assert found["embedding"][1] == embedder_of(trained).texts(["a red square"])[0].tolist()
    assert [value is None for value in found["embedding"]] == [True, False, True, True]
    assert found["error"][1] is None
    assert found["error"][2] == "the text is empty; give one with letters or digits"
    assert "too many pixels (12000 x 12000, max_pixels is 33554432)" in found["error"][3]


@pytest.fixture
def client(packaged, monkeypatch) -> TestClient:
    """MLflow's own scoring server, in this process."""
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")  # the server sets it; restored after the test
    return TestClient(scoring_server.init(packaged))


def test_the_scoring_server_answers_mixed_rows(client, trained, pictures):
    encoded = base64.b64encode(pictures[0]).decode()
    here = embedder_of(trained)
    wanted = [here.images([open_image(pictures[0])])[0].tolist(), here.texts(["a red square"])[0].tolist()]
    records = [{"image": encoded}, {"text": "a red square"}]
    split = {"columns": ["image", "text"], "data": [[encoded, None], [None, "a red square"]]}
    for body in ({"dataframe_records": records}, {"dataframe_split": split}, {"inputs": records}):
        answer = client.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert [np.float32(row["embedding"]).tolist() for row in rows] == wanted
        assert [row["error"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"image": base64.b64encode(b"x").decode()}]},
        {"dataframe_records": [{"nonsense": "a red square"}]},
        {"dataframe_records": [{"text": ""}]},
        {"inputs": {"text": "a", "other": [[1], [2, 3]]}},
        {"inputs": "a red square"},
    ],
)
def test_the_scoring_server_refuses_without_a_traceback(client, body):
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 400, answer.text
    assert "Traceback" not in answer.text
    assert "stack_trace" not in answer.text
    assert ".py" not in answer.text


def test_load_gives_the_same_model_from_a_folder_a_version_and_an_alias(champion, trained):
    assert callable(clips_pipeline.load)
    weights = load_model_folder(trained).model.state_dict()
    for source in (trained, str(trained), champion, "models:/embedder/1"):
        loaded = clips_pipeline.load(source)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.model.state_dict().items())
        image = loaded.image_transform(Image.new("RGB", (40, 30)))
        assert loaded.model.encode_image(image[None]).shape == (1, 128)
        assert loaded.tokenizer.encode("a", 5)[-1] == loaded.tokenizer.cls_id


def test_load_reports_missing_models(tmp_path, store):
    with pytest.raises(ConfigError, match=r"config\.json"):
        clips_pipeline.load(tmp_path)
    with pytest.raises(ConfigError, match=r"models:/nobody@champion: MLflow cannot load it"):
        clips_pipeline.load("models:/nobody@champion")


def test_importing_the_package_and_its_registry_loads_no_torch():
    code = (
        "import sys, clips_pipeline; assert callable(clips_pipeline.load);"
        "heavy = {'torch', 'mlflow', 'numpy', 'kedro'} & set(sys.modules); assert not heavy, heavy;"
        "import clips_pipeline.registry.versions.register; assert 'torch' not in sys.modules;"
        "import os; assert os.environ['MLFLOW_DISABLE_TELEMETRY'] == 'true'"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def _without_installed_package() -> str:
    """Return code that hides the editable install and this checkout."""
    source = str(Path(clips_pipeline.__file__).parents[1])
    return (
        "import sys\n"
        f"sys.path[:] = [p for p in sys.path if p != {source!r}]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]\n"
    )


def _imported_by(files: list[str]) -> set[str]:
    """Return the distributions that the source files import, at their top or within functions."""
    modules: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    owners = packages_distributions()
    return {owners[name][0].lower() for name in modules - sys.stdlib_module_names - {"clips_pipeline"}}
