"""Run spec: one resolved JSON file from which a training can be started on any machine, with any number of ranks."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from clips_pipeline import formats
from clips_pipeline.config import ConfigError, digest_mapping, from_mapping, to_mapping, with_current_names
from clips_pipeline.data.storage.files import StorageConfig
from clips_pipeline.io.disk_errors import write_text
from clips_pipeline.training.config import TrainConfig

STORAGE_OPTIONS = "CLIPS_STORAGE_OPTIONS"
"""Environment variable of the ranks: fsspec's options by protocol, as JSON."""


@dataclass(frozen=True)
class RunSpec:
    """Everything that a rank needs. Paths are absolute.

    Attributes:
        train: the training's configuration.
        shards: folder with `index.json` and one folder of shards per split.
        tokenizer: folder of the tokenizer.
        run_folder: folder of the spec, event log, stop flag and checkpoints; it survives restarts.
        model_folder: folder to which the finished model is exported.
        data_version: version of the shards (`Index.version`); a resumed run must have the same.
        tokenizer_version: digest of the tokenizer's files.
        storage: access to remote shards; credentials are passed by the environment and written to no file.
        shard_cache: folder for copies of remote shards.
    """

    train: TrainConfig
    shards: str
    tokenizer: str
    run_folder: str
    model_folder: str
    data_version: str
    tokenizer_version: str = ""
    storage: StorageConfig = field(default_factory=StorageConfig)
    shard_cache: str = "shard_cache"

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the result depends on: equal fingerprints give the same model.

        Number of ranks, device, threads, loader workers and intervals are left out, since they do not change what is trained.
        What may change during a training is decided by `resume.run_folder`.
        """
        mapping = digest_mapping(self)
        relevant = {key: value for key, value in mapping["train"].items() if key not in ("launch", "every")}
        relevant["precision"] = mapping["train"]["launch"]["precision"]
        for name in ("residual", "communication"):
            # Added later: without them, fingerprints stay those of before.
            if mapping["train"]["launch"][name] != "fp32":
                relevant[name] = mapping["train"]["launch"][name]
        versions: list[int | str] = [formats.TRAINING, self.data_version, self.tokenizer_version]
        versions += [formats.MOVING_AVERAGE] if self.train.ema is not None else []
        text = json.dumps([relevant, *versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def events(self) -> Path:
        """File of the event log."""
        return Path(self.run_folder) / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.run_folder) / "checkpoints"

    @property
    def stop_flag(self) -> Path:
        """File whose existence makes the ranks stop at the next logged step."""
        return Path(self.run_folder) / "stop"

    @property
    def text(self) -> str:
        """The spec as JSON."""
        return json.dumps(to_mapping(self), indent=1)

    def save(self, path: Path) -> None:
        """Write the spec as JSON, atomically.

        Raises:
            CannotWriteError: the disk is full or failed.
        """
        write_text(path, self.text)


def load_spec(path: Path) -> RunSpec:
    """Read a run spec.

    Raises:
        ConfigError: the file is missing, is not JSON, or holds an unknown key.
    """
    try:
        mapping = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such run spec; `kedro run --pipelines train` writes one") from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON ({error}); delete it and run `kedro run --pipelines train`"
        ) from None
    return from_mapping(RunSpec, with_current_names(RunSpec, mapping), where=path.name)
