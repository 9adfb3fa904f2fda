"""Refusal of prepared data whose captions are certainly none: types and fields that were read wrongly.

What is a matter of degree is a finding of the data health report (`reports.data.findings`).
"""

from collections.abc import Sequence

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.caption_statistics import LIST_AS_TEXT, OTHER_CAPTIONERS
from clips_pipeline.data.prepare.filters import DUPLICATE_CAPTION
from clips_pipeline.data.prepare.statistics import Histogram, SplitStatistics, Statistics

FEWEST_SAMPLES = 100
"""With fewer samples, equal or very short captions may be chance."""


def check_captions(statistics: Statistics, captioners: Sequence[str]) -> None:
    """Refuse data whose captions were read wrongly.

    Args:
        statistics: statistics of the prepared data, in which samples without captions are skipped.
        captioners: captioners that the source names.

    Raises:
        ConfigError: half of the captions have one character or are lists written as text, all web captions are the same
            text, or a captioner has no caption at all.
    """
    for name, split in statistics.splits.items():
        fault = _find_fault(split)
        if fault is not None:
            raise ConfigError(f"{name}: {fault}")
    found = {name for split in statistics.splits.values() for name in split.captions.captioners}
    missing = [name for name in captioners if name not in found]
    if missing and OTHER_CAPTIONERS not in found:
        others = ", ".join(sorted(name for name in found if name)) or "none"
        raise ConfigError(
            f"source: no sample has a caption of captioner {missing[0]!r} (found: {others}); correct the name of its field, or "
            "remove it"
        )


def _find_fault(split: SplitStatistics) -> str | None:
    """Return what is wrong with the captions of a split, with the remedy, or None."""
    if split.kept < FEWEST_SAMPLES:
        return None
    for kind in ("web", "synthetic"):
        lengths = split.histograms.get(f"{kind}_characters", Histogram())
        if lengths.count and lengths.quantile(0.5) <= 1:
            return (
                f"half of the {kind} captions or more have at most one character, so they are no captions: a text was taken "
                "apart into its characters, or the wrong field is read; correct the data or the names in `fields` of the source"
            )
    listed = split.noted.get(LIST_AS_TEXT, 0)
    if 2 * listed > split.kept:
        return (
            f"{listed} of {split.kept} samples have a list written as text, such as \"['A dog.', 'A cat.']\", for a caption; "
            "write real lists (JSON or Parquet), or one text in each field"
        )
    texts = split.kept + split.filtered.get(DUPLICATE_CAPTION, 0)
    if texts >= FEWEST_SAMPLES and split.duplicate_captions >= texts - 1:
        return f"all {texts} web captions are one and the same text; name the field that holds the captions in `fields`"
    return None
