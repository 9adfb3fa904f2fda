"""Golden digests of every kind of output: they fail when an output changes and its format version does not.

`make golden-formats` writes `golden_formats.json`. If only the inputs of this test changed, delete their entry first.
Floating-point numbers are rounded, so that other processors give the same digest; embeddings are compared with a
tolerance.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from composer.core import Event
from composer.loggers import Logger
from tests.small_model import small_model
from tests.unit.data.test_every_source import CASES

from clips_pipeline import formats
from clips_pipeline.config import digest_mapping
from clips_pipeline.data.images.transforms import ImageConfig, eval_image
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.index import load_classes, load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.evaluation import evaluate
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.embed import Embedder
from clips_pipeline.evaluation.inference.image_pass import run_image_pass
from clips_pipeline.evaluation.metrics.caption_scores import corpus_scores, score_captions
from clips_pipeline.evaluation.per_item.items import items_from_rows
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.pipelines.prepare.nodes import make_tokenizer
from clips_pipeline.registry.versions.gate import GateConfig, ModelResults, decide
from clips_pipeline.reports.data.caption_lengths import RandomSamples, measure
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training.callbacks.moving_average import EMA

GOLDEN = Path(__file__).with_name("golden_formats.json")
CURVE = Path(__file__).parents[1] / "integration" / "golden_curve.json"
SAMPLES = {"train": 40, "validation": 4, "test": 8, "image_size": 32, "samples_per_shard": 16}

Outputs = dict[str, Any]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _files(folder: Path, **replaced: str) -> str:
    """Return a digest of names and bytes of all files, with fixed texts in place of those that differ between runs."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            for name, text in replaced.items():
                content = content.replace(text.encode(), name.encode())
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    assert found
    return _digest(found)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "shards"
    prepare(ScenesSource(ScenesConfig(**SAMPLES)), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(scenes: Path) -> Path:
    parameters = {"tokenizer": {"kind": "trained", "vocabulary_size": 300}}
    return make_tokenizer(parameters, scenes, None, {"tokenizer": scenes.with_name("tokenizer")})


@pytest.fixture
def embedder(tokenizer: Path) -> Embedder:
    torch.manual_seed(0)
    transform = partial(eval_image, config=ImageConfig(size=32))
    return Embedder(ClipsModel(small_model()), transform, load_tokenizer(tokenizer), batch_size=4)


@pytest.fixture
def shards(scenes: Path, tmp_path: Path) -> Outputs:
    found = {"scenes": _files(scenes, FINGERPRINT=load_index(scenes).fingerprint)}
    for name, case in CASES.items():
        folder = tmp_path / "any name".replace(" ", "-") / name.replace(" ", "-")
        folder.mkdir(parents=True)
        case.lay_out(folder)
        index = prepare(case.make(folder), folder / "shards")
        found[name] = _files(folder / "shards", FOLDER=str(folder), FINGERPRINT=index.fingerprint)
    return found


@pytest.fixture
def tokenizers(tokenizer: Path) -> Outputs:
    """Return digests of tokenizer files and ids. Kinds that read a vocabulary file have tests of their own."""
    ids = load_tokenizer(tokenizer).encode("A small red cube, and two STARS above it; nothing else.", 24)
    return {"files": _files(tokenizer), "ids": [int(number) for number in ids]}


@pytest.fixture
def data_health(scenes: Path, tokenizer: Path) -> Outputs:
    statistics = asdict(load_statistics(scenes))
    del statistics["fingerprint"]
    found: Outputs = {"statistics": _digest(statistics)}
    for split in load_index(scenes).splits:
        texts = asdict(measure(RandomSamples(scenes, split, 20, None), load_tokenizer(tokenizer), CaptionConfig()))
        content = json.dumps(texts, default=np.ndarray.tolist)
        # The golden digests were made with the former names of these fields.
        for name, former in (("capacity", "room"), ("total_samples", "of_samples"), ("total_shards", "of_shards")):
            content = content.replace(f'"{name}":', f'"{former}":')
        found[split] = _digest(json.loads(content))
    return found


@pytest.fixture
def embeddings(scenes: Path, embedder: Embedder) -> Outputs:
    records = list(eval_samples(scenes, "test"))
    made = run_image_pass(embedder, records, EvaluationConfig(device="cpu", captioning=False))
    rows = {
        "image": np.concatenate(made.embeddings)[0],
        "text": embedder.texts([records[0].captions[0]])[0],
        "caption loss": np.array(made.nats[:4]),
    }
    return {name: [round(float(number), 4) for number in row] for name, row in rows.items()}


def _results(scenes: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, noise: float) -> Any:
    """Evaluate synthetic embeddings whose ranks do not depend on rounding."""
    records = list(eval_samples(scenes, "test"))
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(len(records), 16))
    texts = [text for record in records for text in record.captions]
    owner = {text: number for number, record in enumerate(records) for text in record.captions}

    def rows(numbers: list[int]) -> Any:
        found = np.stack([centers[number] for number in numbers]) + noise * draw.normal(size=(len(numbers), 16))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    made = run_image_pass(embedder, records, EvaluationConfig(device="cpu", captioning=False))
    made.embeddings, made.nats = [rows(list(range(len(records))))], [2.5] * len(records)
    monkeypatch.setattr(evaluate, "run_image_pass", lambda *arguments: made)
    known = dict(zip(texts, rows([owner[text] for text in texts]), strict=True))
    monkeypatch.setattr(
        embedder, "texts", lambda wanted: np.stack([known[t] if t in known else rows([len(t) % 8])[0] for t in wanted])
    )
    config = EvaluationConfig(device="cpu", captioning=False, examples=0)
    return evaluate.evaluate_records(embedder, lambda: records, load_classes(scenes), config)


@pytest.fixture
def evaluation(scenes: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Outputs:
    result = _results(scenes, embedder, monkeypatch, 0.6)
    captions = score_captions(
        ["a red cube on a table", "two stars"], [["a red cube", "the cube is red"], ["two big stars"]]
    )
    return {
        "metrics": {name: round(value, 6) for name, value in sorted(result.metrics.items())},
        "items": _digest(
            json.loads(json.dumps(result.per_item, default=str), parse_float=lambda x: round(float(x), 5))
        ),
        "caption scores": {name: round(value, 6) for name, value in corpus_scores(captions).items()},
    }


@pytest.fixture
def registration(scenes: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Outputs:
    found: Outputs = {}
    models = {}
    for name, noise in (("better", 0.1), ("worse", 1.5)):
        result = _results(scenes, embedder, monkeypatch, noise)
        models[name] = ModelResults(result.metrics, items_from_rows(result.per_item))
    metric = next(name for name in models["better"].metrics if name.endswith("mean_recall@1"))
    for new, old in (("better", "worse"), ("worse", "better"), ("better", "better")):
        made = decide(metric, GateConfig(resamples=500), models[new], models[old])
        difference = digest_mapping(made.difference) if made.difference else {}
        numbers = {key: round(value, 5) for key, value in difference.items() if isinstance(value, float)}
        found[f"{new} after {old}"] = [made.promote, numbers]
    return found


@pytest.fixture
def training() -> Outputs:
    """`tests/integration/test_golden_curve.py` tests the results of a training."""
    curve = json.loads(CURVE.read_text())
    assert curve.pop("version") == formats.TRAINING, "run `make golden-curve`"
    return {"curve": _digest(curve)}


@pytest.fixture
def moving_average() -> Outputs:
    """Weights and their averages after updates, each followed by what an evaluation reads."""
    model = torch.nn.Module()
    model.clips = torch.nn.Linear(2, 1, bias=False)
    state: Any = SimpleNamespace(model=model)
    average = EMA(half_life="2ba", update_interval="1ba")
    found = []
    for number in range(4):
        model.clips.weight.data = torch.tensor([[4.0 * number, 8.0]])
        average.apply(Event.BATCH_END if number else Event.INIT, state, Logger(state))
        evaluated = average.averages()["weight"]
        found.append([round(value, 5) for value in (*evaluated.flatten().tolist(), *model.clips.weight[0].tolist())])
    return {"averages, weights": found}


@pytest.fixture
def pictures(scenes: Path) -> Outputs:
    # The golden digest was made when a record had one caption of each kind.
    former = "Record(key={0.key!r}, image={0.image!r}, extension={0.extension!r}, web_caption={0.web_caption!r}, "
    former += (
        "synthetic_caption={0.synthetic_caption!r}, captions={0.captions!r}, label={0.label!r}, score={0.score!r})"
    )
    records = list(eval_samples(scenes, "test"))
    questions = [list(map(list, record.questions)) for record in records]
    return {"records": _digest([former.format(record) for record in records]), "questions": _digest(questions)}


FIXTURES: dict[str, str] = {
    "SHARDS": "shards",
    "SCENES": "pictures",
    "TOKENIZER": "tokenizers",
    "DATA_HEALTH": "data_health",
    "TRAINING": "training",
    "MOVING_AVERAGE": "moving_average",
    "EMBEDDINGS": "embeddings",
    "EVALUATION": "evaluation",
    "REGISTRATION": "registration",
}


def _same(found: Outputs, expected: Outputs) -> bool:
    """Return whether both are equal; lists of numbers within the tolerance for other processors."""
    if found.keys() != expected.keys():
        return False
    return all(
        value == pytest.approx(expected[name], abs=2e-3, rel=1e-4) if name in ROWS else value == expected[name]
        for name, value in found.items()
    )


ROWS = ("image", "text", "caption loss")


def test_every_version_has_an_output_here() -> None:
    assert {name for name in vars(formats) if name.isupper()} == set(FIXTURES)


@pytest.mark.parametrize("name", FIXTURES)
def test_outputs_match_their_version(name: str, request: pytest.FixtureRequest) -> None:
    found, version = request.getfixturevalue(FIXTURES[name]), getattr(formats, name)
    known: dict[str, Any] = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("CLIPS_WRITE_GOLDEN") == "1":
        before = known.get(name)
        changed = before is not None and before["version"] == version and not _same(found, before["outputs"])
        assert not changed, _remedy(name, version, found, before)
        known[name] = {"version": version, "outputs": found}
        GOLDEN.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        return
    expected = known[name]
    assert version == expected["version"], (
        f"{name} is {version} and was {expected['version']}: run `make golden-formats`"
    )
    assert _same(found, expected["outputs"]), _remedy(name, version, found, expected)


def _remedy(name: str, version: int, found: Outputs, before: Any) -> str:
    names = [key for key in {**found, **before["outputs"]} if found.get(key) != before["outputs"].get(key)]
    return (
        f"outputs changed ({', '.join(names)}): raise {name} from {version} to {version + 1} in src/clips_pipeline/formats.py and "
        "run `make golden-formats`"
    )


def test_a_changed_output_without_its_version_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test the guard itself: its message, and that writing goldens is refused too."""
    make: Callable[..., Any] = test_outputs_match_their_version
    before = GOLDEN.read_bytes()

    class Request:
        def getfixturevalue(self, name: str) -> Outputs:
            return {"files": "changed", "ids": []}

    for writes in ("0", "1"):
        monkeypatch.setenv("CLIPS_WRITE_GOLDEN", writes)
        with pytest.raises(AssertionError, match=r"raise TOKENIZER from \d+ to \d+ in .*make golden-formats"):
            make("TOKENIZER", Request())
    assert GOLDEN.read_bytes() == before
