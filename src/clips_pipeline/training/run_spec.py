"""The run spec: one resolved JSON file from which a training can be started on any machine, in any number of processes."""

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
"""Environment variable of the workers: fsspec's options by protocol, as JSON."""


@dataclass(frozen=True)
class RunSpec:
    """Everything a worker needs; paths are absolute.

    Attributes:
        train: the typed configuration.
        shards: folder with `index.json` and one folder of shards per split.
        tokenizer: folder of the tokenizer.
        run_folder: holds the spec, event log, stop flag and checkpoints; it survives restarts.
        model_folder: where the finished model is exported.
        data_version: of the shards (`Index.version`), so that a resumed run is known to see the same data.
        tokenizer_version: digest of the tokenizer's files.
        storage: how shards elsewhere are reached; credentials come by another way and stand in no file.
        shard_cache: folder for copies of such shards.
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
        """Same fingerprint, same training, with the same result. What may differ on the way besides: `run_folder`.

        Process count, device, threads, loader workers and intervals may differ: they do not change what is trained.
        """
        mapping = digest_mapping(self)
        relevant = {key: value for key, value in mapping["train"].items() if key not in ("launch", "every")}
        relevant["precision"] = mapping["train"]["launch"]["precision"]
        versions = [formats.TRAINING, self.data_version, self.tokenizer_version]
        text = json.dumps([relevant, *versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def events(self) -> Path:
        """The event log: one JSON object per line."""
        return Path(self.run_folder) / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.run_folder) / "checkpoints"

    @property
    def stop_flag(self) -> Path:
        """While this file exists, the workers stop at their next logged step."""
        return Path(self.run_folder) / "stop"

    @property
    def text(self) -> str:
        """As JSON."""
        return json.dumps(to_mapping(self), indent=1)

    def save(self, path: Path) -> None:
        """Write as JSON, aside and then renamed.

        Raises:
            CannotWriteError: the disk is full, or the like.
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
