"""Packaging of an exported model folder as an MLflow pyfunc model that embeds images and texts in any process.

It contains:

- the exported folder unchanged (safetensors, JSON, tokenizer files), without pickled code;
- `pyfunc_model.py` as models-from-code: a readable script instead of a pickled object that depends on module paths;
- this package's source under `code/`, because the package is on no index: a version loads with the code that made it;
- pinned requirements, listed explicitly (inferring them would load the model and query the package index).
"""

import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from clips_pipeline.config import ConfigError

ARTIFACT = "model"
"""Name of the exported folder among the pyfunc's artifacts."""

REQUIRED = (
    *("mlflow", "torch", "numpy", "pandas", "pillow", "safetensors", "ftfy", "regex", "tokenizers", "psutil"),
    *("pydantic", "pydantic_core", "annotated-types"),
)
"""Packages imported by the modules that embed; training needs more."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def requirements() -> list[str]:
    """Return the packaged model's requirements, pinned to the installed versions (without local build tags)."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIRED]


def signature() -> ModelSignature:
    """Return the signature: an `embedding` of length one for each row, or the `error` that says why there is none.

    It describes no input: MLflow would drop unknown columns without a word before the model sees them, and would refuse
    rows of images and of texts in one request. The model checks its input by itself.
    """
    outputs = Schema(
        [ColSpec(Array(DataType.float), "embedding", required=False), ColSpec(DataType.string, "error", required=False)]
    )
    return ModelSignature(outputs=outputs)


def log_package(model_folder: Path, model_id: str, run_id: str) -> None:
    """Store the packaged model in the artifacts of a LoggedModel.

    Unlike `mlflow.pyfunc.log_model(model_id=…)` it can be repeated for the same model after a crash.

    Args:
        model_folder: the exported model folder.
        model_id: id of the LoggedModel.
        run_id: id of the run that trained it.

    Raises:
        ConfigError: the folder lacks weights or configuration.
    """
    missing = [file for file in ("model.safetensors", "config.json") if not (model_folder / file).is_file()]
    if missing:
        raise ConfigError(f"{model_folder}: no {' and no '.join(missing)}; run `kedro run --pipelines train` first")
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as temporary:
        described = Model(artifact_path=f"models:/{model_id}", run_id=run_id, model_uuid=model_id, model_id=model_id)
        save_package(model_folder, Path(temporary) / "model", described)
        client.log_model_artifacts(model_id, f"{temporary}/model")
    if MLFLOW_MODEL_IS_EXTERNAL in client.get_logged_model(model_id).tags:
        client.delete_logged_model_tag(model_id, MLFLOW_MODEL_IS_EXTERNAL)


def save_package(model_folder: Path, out: Path, described: Model | None = None) -> None:
    """Write the packaged model to a folder, as `mlflow.pyfunc.load_model` and `mlflow models serve` read it.

    Args:
        model_folder: the exported model folder.
        out: folder to write; must not exist.
        described: ids for MLflow's file.
    """
    package = Path(__file__).resolve().parents[2]
    with warnings.catch_warnings():
        # With an input example mlflow would load the model, and torch, in this process.
        warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(out),
            mlflow_model=described,
            python_model=str(package / "registry" / "versions" / "pyfunc_model.py"),
            artifacts={ARTIFACT: str(model_folder.resolve())},
            code_paths=[str(package)],
            signature=signature(),
            pip_requirements=requirements(),
        )


def fetch_model_folder(uri: str) -> Path:
    """Return the exported folder inside a registered or logged model, and download it where it is remote.

    Args:
        uri: such as `models:/clips@champion`, `models:/clips/3`, `runs:/<run id>/clips` or a folder with an `MLmodel`.

    Raises:
        ConfigError: the model was not packaged by this project.
        mlflow.exceptions.MlflowException: there is no such model.
    """
    root = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    if not (root / "MLmodel").is_file():
        raise ConfigError(f"{uri}: not an MLflow model (it has no MLmodel file)")
    artifacts = Model.load(str(root)).flavors.get("python_function", {}).get("artifacts", {})
    if ARTIFACT not in artifacts:
        raise ConfigError(
            f"{uri}: not packaged by clips-pipeline; mlflow.pyfunc.load_model loads it, and runs its code"
        )
    return root / str(artifacts[ARTIFACT]["path"])


def resolve_model_folder(start: str, key: str = "train.model.initial_weights") -> Path:
    """Return the folder of the model that a training starts from, or that is evaluated.

    Args:
        start: a folder; `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH`; or the id of an MLflow run,
            for the newest version registered from it.
        key: key of the parameter, for messages.

    Raises:
        ConfigError: MLflow has no such model.
    """
    if not _RUN_ID.fullmatch(start) and not start.startswith(("models:/", "runs:/")):
        return Path(start)
    address = start
    try:
        if _RUN_ID.fullmatch(start):
            versions = mlflow.MlflowClient().search_model_versions(f"run_id = '{start}'")
            if not versions:
                raise ConfigError(
                    f"{key}: no model was registered from MLflow run {start}; run "
                    "`kedro run --pipelines register`, or give the folder of the exported model"
                )
            newest = max(versions, key=lambda version: int(version.version))
            address = f"models:/{newest.name}/{newest.version}"
        return fetch_model_folder(address)
    except MlflowException as error:
        raise ConfigError(f"{key}: {start}: MLflow has no such model ({error.message})") from None


def fetch_model_folder_for_load(uri: str) -> Path:
    """Return the same as `fetch_model_folder`, for callers outside a project, who may not have set MLflow's URI.

    Raises:
        ConfigError: as there; also no such model, or no URI of MLflow is set.
    """
    if uri.startswith(("models:", "runs:")) and not mlflow.tracking.is_tracking_uri_set():
        # MLflow would create an empty mlflow.db in the working directory.
        raise ConfigError(
            f"{uri}: MLflow's tracking URI is not set; in the project's folder "
            "`export MLFLOW_TRACKING_URI=sqlite:///mlruns/mlflow.db`, or set the URL of a server"
        )
    try:
        return fetch_model_folder(uri)
    except MlflowException as error:
        raise ConfigError(
            f"{uri}: MLflow cannot load it ({str(error).splitlines()[0]}); check the name and the tracking URI"
        ) from None
