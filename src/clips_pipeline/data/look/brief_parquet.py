"""The source `parquet` for a short look: of many files, only a few are opened."""

import random

from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.look.first_samples import FirstSamples
from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource

MAX_FILES = 5
"""Files of a split that are opened: each remote one costs several requests."""


class BriefParquetSource(ParquetSource):
    """Some of the files of a source.

    Args:
        config: files and columns.
        storage: access to the files.
        limits: limits on a sample.
        seed: None takes the first files; a number draws them.
    """

    def __init__(
        self, config: ParquetConfig, storage: FirstSamples, limits: SampleLimits, seed: int | None = None
    ) -> None:
        super().__init__(config, storage, limits)
        self._files = {split: _choose(files, seed) for split, files in self._files.items()}


def _choose(files: list[str], seed: int | None) -> list[str]:
    if seed is None or len(files) <= MAX_FILES:
        return files[:MAX_FILES]
    drawn = random.Random(seed).sample(range(len(files)), MAX_FILES)  # noqa: S311 - not used for cryptography
    return [files[number] for number in sorted(drawn)]
