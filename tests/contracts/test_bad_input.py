"""Invalid parameters end a run before any node, with one message that names the key and the remedy."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import AbstractDataset, DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline
from tests import suite_replicas as replicas

from clips_pipeline.config import ConfigError
from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.datasets.remote import RemoteDataset
from clips_pipeline.hooks import ProjectHooks
from clips_pipeline.pipeline_registry import register_pipelines
from clips_pipeline.pipelines import check as checks
from clips_pipeline.pipelines.check import check, check_devices
from clips_pipeline.pipelines.parameters import TYPES
from clips_pipeline.tuning.search_space import merge


@pytest.fixture(scope="module")
def base(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in TYPES:
        found |= yaml.safe_load((repository / "conf" / "base" / f"parameters_{name}.yml").read_text())
    return found


def catalog_of(parameters: dict[str, Any], *credentials: Any) -> DataCatalog:
    remote = RemoteDataset(parameters.get("storage", {}), credentials, lambda: Path("copies"))
    entries: dict[str, AbstractDataset[Any, Any]] = {"parameters": MemoryDataset(parameters), "remote_shards": remote}
    entries["paths"] = MemoryDataset({"caption_tables": Path("tables")})
    entries |= {f"params:{name}": MemoryDataset(group) for name, group in parameters.items()}
    return DataCatalog(entries)


@pytest.mark.parametrize("pipeline", ["prepare", "train", "evaluate", "register", "pretrain", "search"])
def test_the_defaults_pass(base: dict[str, Any], pipeline: str) -> None:
    check(register_pipelines()[pipeline], catalog_of(base))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.model.size", "b17", "train.model.size: 'b17' is unknown; sizes are s16, b16"),
        ("train.model.image_size", 90, "train.model.image_size: 90 is not a multiple of the patch size of 32; use 64"),
        ("train.captions.fragment.strategy", "sentence", "train.captions.fragment.strategy: 'sentence' is not one of"),
        ("train.model.size", {"base": "tiny", "text": {"heads": 3}}, "train.model.size.text.heads: a width of 128"),
        (
            "train.model.size",
            {"text": {"depth": 3}},
            "train.model.size.vocab_size: missing; give it, or a named size",
        ),
        ("train.model.size", {"base": "b17"}, "train.model.size.base: 'b17' is unknown; sizes are s16, b16"),
        ("train.model.size", {"base": "tiny", "txt": {}}, "train.model.size.txt: unknown key; did you mean 'text'?"),
        (
            "train.method",
            "captioning",
            "register.metric: retrieval/scenes/mean_recall@1 does not exist for train.method captioning, which has no text tower; "
            "set caption/scenes/teacher_forced_loss",
        ),
        (
            "train.optimizer.name",
            "moun",
            "train.optimizer.name: 'moun' is unknown; did you mean 'muon'? Known: adabelief, ",
        ),
        (
            "train.optimizer",
            {"name": "lamb", "options": {"momentum": 0.9}},
            "train.optimizer.options.momentum: lamb has no such option; it has ",
        ),
        ("train.augment.crop_area", [2, 3], "train.augment.crop_area[0]: 2 must be at most 1"),
        ("train.augment.crop_area", [0.9, 0.4], "train.augment.crop_area: [0.9, 0.4]; give the smaller number first"),
        ("train.augment.color_jitter", 9, "train.augment.color_jitter: 9 must be at most 1"),
        ("train.optimizer.beta1", 5, "train.optimizer.beta1: 5 must be below 1"),
        ("train.launch.threads", -3, "train.launch.threads: -3 must be at least 1"),
        ("train.progressive", {"first_size": 20}, "train.progressive.first_size: 20 must be a multiple of the patch"),
        ("train.optimizer.lr", 0.1, "train.optimizer.lr: unknown key"),
        ("train.method", "clap", "train.method: 'clap' is not one of 'clip', 'mixture', 'coca', 'clips'"),
        ("train.freeze", ["vision", "text", "captioner"], "train.freeze: every part is frozen"),
        ("prepare.tokenizer.vocabulary_size", 5000, "{base: tiny, vocab_size: 5000}"),
        ("prepare.source.kind", "folder", "the group 'folder' is missing"),
        ("prepare.source.kind", "recaption", "set source.recaption.train and .tables"),
        ("prepare.source.folder", {"images": "nowhere", "captions": "c.json"}, None),
        ("evaluate.split", "dev", "evaluate.split: 'dev' is not one of"),
        ("register.alias", "v1", "register.alias: 'v1' must start"),
        ("storage.unreachable", "retry", "storage.unreachable: 'retry' is not one of"),
        ("storage.retires", 3, "storage.retires: unknown key; did you mean 'retries'?"),
        ("trian.samples", 1, "trian: unknown parameter group"),
    ],
)
def test_each_error_gives_one_message(base: dict[str, Any], path: str, value: Any, message: str | None) -> None:
    parameters = merge(copy.deepcopy(base), {path: value})
    if message is None:
        check(register_pipelines()["pretrain"], catalog_of(parameters))  # groups of other sources are not checked
        parameters = merge(parameters, {"prepare.source.kind": "folder"})
        message = "nowhere"
    with pytest.raises(ConfigError) as caught:
        check(register_pipelines()["pretrain"], catalog_of(parameters))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "prepare.source.folder.images",
        "prepare.source.folder.captions",
        "prepare.source.folder.classes",
        "prepare.source.img2dataset.train",
        "prepare.source.img2dataset.validation",
        "prepare.source.parquet.train",
        "prepare.source.recaption.train",
        "prepare.source.recaption.tables",
        "prepare.source.clip_benchmark.root",
        "prepare.tokenizer.vocabulary_file",
        "prepare.run_on.address",
        "finetune.start",
        "evaluate.model",
        "evaluate.compositionality.sugarcrepe",
        "export_benchmark.upload",
        "embed.data",
        "recaption.model",
        "register.name",
        "suite.models",
        "suite.published",
    ],
)
@pytest.mark.parametrize("pipeline", ["prepare", "pretrain", "search"])
@pytest.mark.parametrize(
    "value",
    [
        "http://me:hush@host/x",
        "s3://KEY:HU/SH@bucket/x",
        "http://host/x?sig=hush",
        "pipe:curl -H 'Authorization: hush' http://host",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(
    base: dict[str, Any], path: str, pipeline: str, value: str
) -> None:
    parameters = copy.deepcopy(base)
    *groups, name = path.split(".")
    group = parameters
    for key in groups:
        group[key] = group.get(key) or {}
        group = group[key]
    group[name] = value
    with pytest.raises(ConfigError) as caught:
        check(register_pipelines()[pipeline], catalog_of(parameters))
    assert str(caught.value).startswith(f"{path}: contains a ")
    assert "conf/local/credentials.yml" in str(caught.value)
    assert "hush" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search.trials", 0, "search.trials: 0 must be at least 1"),
        ("search.samples", 1, "search.samples: 1 is less than one batch"),
        ("search.metric", "recall", "search.metric: 'recall' is unknown; choose one of mean_recall@1"),
        ("search.space", {"loss.caption_wait": {"kind": "int", "low": 1, "high": 2}}, "did you mean 'caption_weight'?"),
        ("search.space", {}, "search.space: empty"),
        ("search.storage.kind", "mysql", "search.storage.kind: 'mysql' is not one of"),
    ],
)
def test_a_search_is_refused_before_its_first_trial(base: dict[str, Any], path: str, value: Any, message: str) -> None:
    parameters = merge(copy.deepcopy(base), {path: value})
    with pytest.raises(ConfigError) as caught:
        check(register_pipelines()["search"], catalog_of(parameters))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({"s3": "hush"}, r"credentials\.storage\.s3: expected fsspec options"),
        ("hush", r"credentials\.storage: expected a mapping"),
    ],
)
def test_malformed_credentials_are_refused_and_not_shown(base: dict[str, Any], credentials: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(register_pipelines()["pretrain"], catalog_of(base, credentials))
    assert "hush" not in str(caught.value)


def test_credentials_of_an_environment_take_precedence(base: dict[str, Any]) -> None:
    local, own = {"s3": {"key": "a", "secret": "b"}, "gs": {"token": "c"}}, {"s3": {"key": "d"}}
    found = catalog_of(base, local, None, own).load("remote_shards").storage.options
    assert found == {"s3": {"key": "d"}, "gs": {"token": "c"}}


def test_a_run_shows_the_message_and_no_traceback(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kedro", "run", "--env", "smoke", "--params", "train.model.size=b17"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    shown = done.stdout + done.stderr
    assert "train.model.size: 'b17' is unknown" in shown
    assert "Traceback" not in shown


def test_a_missing_input_is_named_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = DataCatalog({"shards": PathDataset(filepath=str(tmp_path / "shards"), made_by="prepare")})
    with pytest.raises(DatasetError) as caught:
        catalog.load("shards")
    hooks = _create_hook_manager()
    hooks.register(ProjectHooks())
    told = {"run_params": {}, "pipeline": Pipeline([]), "catalog": catalog}
    with pytest.raises(SystemExit) as ended:
        hooks.hook.on_pipeline_error(error=caught.value, **told)
    assert ended.value.code == 2
    assert "shards does not exist; `kedro run --pipelines prepare` makes it" in caplog.text
    # Errors other than missing files keep their traceback.
    hooks.hook.on_pipeline_error(error=DatasetError("odd"), **told)


def test_a_dry_run_prints_a_table_and_touches_nothing(repository: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (repository / "data").rglob("*")}
    runs = repository / "mlruns" / "mlflow.db"
    stamp = runs.stat().st_mtime_ns if runs.exists() else None
    command = [
        sys.executable,
        "-m",
        "kedro",
        "run",
        "--pipeline",
        "train",
        "--env",
        "smoke",
        "--params",
        "dry_run=true",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env={**os.environ, "COLUMNS": "140"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parameters, captioner" in done.stdout
    assert "GiB expected at most" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (repository / "data").rglob("*")} == before
    assert (runs.stat().st_mtime_ns if runs.exists() else None) == stamp


def test_a_dry_run_is_for_pipelines_that_train(base: dict[str, Any]) -> None:
    from clips_pipeline.pipelines import dry_run

    with pytest.raises(ConfigError, match="dry_run: this pipeline contains no training"):
        dry_run.show(register_pipelines()["evaluate"], catalog_of(base))
    with pytest.raises(ConfigError, match="dry_run: expected true or false, found 'yes'"):
        dry_run.is_requested(catalog_of({**base, "dry_run": "yes"}))


def test_the_suite_is_checked_before_other_pipelines_run(base: dict[str, Any], tmp_path: Path) -> None:
    mapping = replicas.iiw(tmp_path)
    pipeline = register_pipelines()["train"] + register_pipelines()["suite"]
    check(pipeline, catalog_of(merge(copy.deepcopy(base), {"suite.sets": {"iiw": {**mapping, "images": 6}}})))
    parameters = merge(copy.deepcopy(base), {"suite.sets": {"iiw": {**mapping, "images": 400}}})
    with pytest.raises(ConfigError, match=r"suite\.sets\.iiw: images: 6 found, 400 published"):
        check(pipeline, catalog_of(parameters))
    parameters = merge(copy.deepcopy(base), {"suite.published": str(tmp_path / "no.yml")})
    with pytest.raises(ConfigError, match=r"suite\.published: .*no\.yml: no such file"):
        check(register_pipelines()["suite"], catalog_of(parameters))


def test_a_gpu_that_is_not_there_is_refused(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = copy.deepcopy(base)
    wanted["train"]["launch"]["device"] = "gpu"
    pipelines = register_pipelines()
    monkeypatch.setattr(checks, "GPU_DEVICES", ("/nowhere",))
    with pytest.raises(ConfigError, match=r"train\.launch\.device: 'gpu', but this machine shows none; set `auto` or"):
        check_devices(pipelines["pretrain"], catalog_of(wanted))
    check_devices(pipelines["prepare"], catalog_of(wanted))  # trains nothing
    check_devices(pipelines["pretrain"], catalog_of(base))
    wanted["train"]["launch"]["start"] = False  # the ranks run elsewhere
    check_devices(pipelines["pretrain"], catalog_of(wanted))
    wanted["train"]["launch"]["start"] = True
    monkeypatch.setattr(checks, "GPU_DEVICES", ("/nowhere", "/dev/null"))
    check_devices(pipelines["pretrain"], catalog_of(wanted))
