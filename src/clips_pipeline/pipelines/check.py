"""Checks of all parameters before any node runs."""

from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.folder_lock import FolderOwner, claim
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.metric_keys import check_method_has
from clips_pipeline.evaluation.suite.config import SuiteConfig
from clips_pipeline.evaluation.suite.published_results import read_published
from clips_pipeline.pipelines.dry_run import KEY
from clips_pipeline.pipelines.parameters import TYPES, typed
from clips_pipeline.pipelines.prepare.nodes import make_source
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import check_model

# Of the drivers of NVIDIA, NVIDIA on Tegra, AMD, and Windows Subsystem for Linux.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


def reserve_shards_folder(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str) -> None:
    """Record that this environment prepares its folder of shards.

    Raises:
        ConfigError: the folder contains another environment's data, from another source.
    """
    if "params:prepare" in pipeline.inputs():
        source = typed("prepare", catalog.load("params:prepare")).source
        claim(catalog.load("paths")["shards"], FolderOwner(environment, source.kind, source.addresses))


def check(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
    """Build every configuration object that `pipeline` reads, so that an error ends the run before it starts.

    Raises:
        ConfigError: as `typed`; also a password, token or signature in any value, an unknown (misspelled) parameter group,
            storage settings or credentials of the wrong shape, a missing source, a model that cannot be built, a metric of
            registration that the method does not have, a search space that does not fit the training, or a set of the suite
            that is not the published one.
    """
    parameters = catalog.load("parameters")
    refuse_secrets(parameters, "")
    known = set(TYPES)
    for group in parameters:
        if group not in known and group != KEY:
            raise ConfigError(f"{group}: unknown parameter group; known groups: {', '.join(sorted(known))}")
    names = (name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:"))
    # A node may read a part of a group, such as `train.captions`; it checks that part itself.
    groups = {name: catalog.load(f"params:{name}") for name in names if "." not in name}
    try:
        remote = catalog.load("remote_shards")
    except DatasetError as error:
        # Kedro wraps the exceptions of datasets, possibly more than once.
        cause: BaseException | None = error
        while isinstance(cause, DatasetError):
            cause = cause.__cause__
        raise (cause if isinstance(cause, ConfigError) else error) from None
    configs = {name: typed(name, mapping) for name, mapping in sorted(groups.items())}
    if "prepare" in configs:
        make_source(groups["prepare"], remote.storage, catalog.load("paths")["caption_tables"])
    if "train" in configs:
        # Before `prepare`, only a vocabulary that it will train has a known size.
        tokenizer = configs["prepare"].tokenizer if "prepare" in configs else None
        check_model(configs["train"], tokenizer.vocabulary_size if tokenizer and tokenizer.kind == "trained" else 0)
        if "register" in configs:
            check_method_has(configs["register"].metric, configs["train"].method, "register.metric")
    if "finetune" in configs:
        stage = configs["finetune"].parameters(groups["train"], "")
        check_model(from_mapping(TrainConfig, stage, "finetune.train"), 0)
    if "search" in configs:
        # Imported here: it loads Optuna.
        from clips_pipeline.tuning.search import check_search

        check_search(configs["search"], groups["train"])
    if "suite" in configs:
        _check_suite(configs["suite"], remote.storage, alone=len(pipeline.nodes) == 1)


def check_devices(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
    """Refuse a training on a GPU where this machine shows none, before data is prepared for it.

    Raises:
        ConfigError: names the key.
    """
    if "params:train" not in pipeline.inputs():
        return
    launch = typed("train", catalog.load("params:train")).launch
    if launch.device == "gpu" and launch.start and not any(Path(device).exists() for device in GPU_DEVICES):
        raise ConfigError(
            "train.launch.device: 'gpu', but this machine shows none; set `auto` or `cpu`, or run `make doctor` to see what its "
            "driver says"
        )


def _check_suite(config: SuiteConfig, storage: Storage, *, alone: bool) -> None:
    """Check what the suite reads; alone it opens its sets first, behind a training that would be late."""
    read_published(config.published, tuple(config.sets))
    if not alone:
        # Imported here: it loads torch.
        from clips_pipeline.evaluation.suite.sets import open_set

        for name, found in config.chosen_sets().items():
            open_set(name, found, storage)
