"""One probe in its own process: `python -m clips_pipeline.llava.job JOB.json`. A probe that was killed starts again."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, digest_mapping, from_mapping, to_mapping
from clips_pipeline.data.scenes.source import ScenesConfig
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.io.atomic import write_text
from clips_pipeline.io.digests import json_sha256
from clips_pipeline.io.terminal import protect_output
from clips_pipeline.llava.config import LlavaProbeConfig
from clips_pipeline.training.launch.interrupt import PARENT, watch_parent
from clips_pipeline.training.run_spec import STORAGE_OPTIONS

UNTRAINED, BLIND = "untrained", "blind"
"""Rows without training of the tower: initial weights, and no image at all."""

_VERSION = 1
"""Raised when the same job gives another result."""

_WHICH_PROBES = ("methods", "seeds", "tower_samples", "parallel_runs", "hours")


def methods_of(names: Sequence[str]) -> list[str]:
    """Return the rows with a trained tower."""
    return [name for name in dict.fromkeys(names) if name not in (UNTRAINED, BLIND)]


def digest(value: Any) -> str:
    """Return a short digest of plain values."""
    return json_sha256(value)[:16]


@dataclass(frozen=True)
class ProbeJob:
    """Everything that a probe needs. Paths are absolute.

    Attributes:
        row: method of the tower, `untrained` or `blind`.
        seed: of the language model, and of an untrained tower.
        tower: what the tower depends on: fingerprint of its training, or its dimensions.
        model_folder: folder of the trained model; of an untrained tower, of a model with its dimensions.
        config: configuration of the probe.
        scenes: the embedded data.
        shards: folder of its shards.
        data_version: version of the shards (`Index.version`).
        result: file of the result.
        threads: threads of the process.
        storage: access to remote shards.
        shard_cache: folder for copies of remote shards.
    """

    row: str
    seed: int
    tower: str
    model_folder: str
    config: LlavaProbeConfig
    scenes: ScenesConfig
    shards: str
    data_version: str
    result: str = ""
    threads: int = 1
    storage: StorageConfig = field(default_factory=StorageConfig)
    shard_cache: str = "shard_cache"

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the result depends on."""
        config = {key: value for key, value in digest_mapping(self.config).items() if key not in _WHICH_PROBES}
        parts = [_VERSION, self.row, self.seed, self.tower, config, digest_mapping(self.scenes), self.data_version]
        return digest(parts)

    def save(self, path: Path) -> None:
        """Write the job file that `main` reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(to_mapping(self), indent=1))


def run(job: ProbeJob) -> None:
    """Compute the patches, train, answer the test questions, and write the result atomically.

    Raises:
        ConfigError: the tower is damaged, a layer does not exist, or the shards contain other scenes.
    """
    import torch

    from clips_pipeline.llava.features import load_tower, patch_features, read_scenes
    from clips_pipeline.llava.questions import balanced_questions
    from clips_pipeline.llava.training import ProbeData, train_probe

    torch.set_num_threads(job.threads)
    remote = ShardCache(Path(job.shard_cache), Storage(job.storage, json.loads(os.environ.get(STORAGE_OPTIONS, "{}"))))
    vision, loaded = load_tower(Path(job.model_folder), job.seed if job.row in (UNTRAINED, BLIND) else None)
    data = {}
    for split in ("train", "validation", "test"):
        asked = balanced_questions(job.scenes, split, getattr(job.config.questions, split), job.config.questions.seed)
        if job.row == BLIND:
            data[split] = ProbeData(asked, None, {})
            continue
        records = read_scenes(Path(job.shards), split, job.scenes, remote)
        needed = sorted({question.index for question in asked})
        patches = patch_features(vision, loaded, (records[index] for index in needed), job.config.vision_layer)
        # Half precision: the patches of all images are in memory. A clone, since an inference tensor cannot be trained on.
        data[split] = ProbeData(asked, patches.half().clone(), {index: place for place, index in enumerate(needed)})
    found, _ = train_probe(vision, job.config, data, job.seed)
    result = {
        "row": job.row,
        "seed": job.seed,
        "answers": found.answers,
        "validation": found.validation,
        "train_loss": found.train_loss,
        "seconds": found.seconds,
    }
    write_text(Path(job.result), json.dumps(result, indent=1))


def main(arguments: list[str]) -> int:
    """Run the job; return 1 with a message where it failed."""
    protect_output()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if os.environ.pop(PARENT, None) == "1":
        watch_parent(lambda: os._exit(1))  # nothing to save: only a finished probe counts
    mapping: dict[str, Any] = json.loads(Path(arguments[0]).read_text())
    try:
        run(from_mapping(ProbeJob, mapping, where="job"))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
