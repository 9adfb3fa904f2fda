"""Node of the `export_benchmark` pipeline."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.data.sources.clip_benchmark_export import export_benchmark
from clips_pipeline.pipelines.parameters import typed

log = logging.getLogger(__name__)


def export(parameters: dict[str, Any], shards: Path, remote: Any, paths: Mapping[str, Path]) -> Path:
    """Write a prepared split in the layout of CLIP_benchmark."""

    config, target = typed("export_benchmark", parameters), paths["clip_benchmark_set"]
    samples = export_benchmark(shards, target, config, remote, remote.storage)
    log.info(
        "%s: %d samples for %s%s", target, samples, config.task, f", also at {config.upload}" if config.upload else ""
    )
    return target
