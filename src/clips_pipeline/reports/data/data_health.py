"""Data health report: content of the prepared data, samples left out, and what the model reads of the captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from clips_pipeline.config import PositiveInt
from clips_pipeline.data.images.thumbnail import Thumbnail, make_thumbnail
from clips_pipeline.data.prepare.statistics import Histogram, Statistics, load_statistics
from clips_pipeline.data.shards.index import Index, load_index
from clips_pipeline.data.shards.records import CaptionerNames, Record, captioner_fields
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.reports.data import caption_lengths
from clips_pipeline.reports.data.caption_lengths import Lengths, RandomSamples, SplitTexts
from clips_pipeline.reports.data.findings import collect_findings
from clips_pipeline.reports.data.histograms import bars, histogram_chart, octave_bars
from clips_pipeline.reports.figure import Chart
from clips_pipeline.reports.page import format_bytes, format_number, format_percent, render, write_page
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

_MOST_SENTENCES = 30
_MOST_CAPTIONER_CHARTS = 4
_THUMBNAIL = 256


@dataclass(frozen=True)
class HealthConfig:
    """Number of samples that the report reads.

    Attributes:
        samples: maximum number per split for caption lengths; everything else is counted over all samples.
        examples: number of samples per split in the contact sheet.
    """

    samples: PositiveInt = 20_000
    examples: Annotated[int, Ge(0), Le(1000)] = 12


def write_data_health(
    shards: Path,
    tokenizer: Tokenizer,
    captions: CaptionConfig,
    config: HealthConfig,
    path: Path,
    remote: ShardCache | None = None,
) -> Path:
    """Write the report. The same data gives the same page.

    Args:
        shards: folder of index and statistics.
        tokenizer: tokenizer of the model.
        captions: row lengths and fragment strategy of the training.
        config: number of samples to read.
        path: path of the HTML file; parent folders are created.
        remote: cache for shards in remote storage.

    Raises:
        ConfigError: index, statistics or a shard are missing or damaged.
    """
    index, statistics = load_index(shards), load_statistics(shards)
    texts: dict[str, SplitTexts] = {}
    examples: dict[str, list[Record]] = {}
    for split in index.splits:
        drawn = RandomSamples(shards, split, config.samples, remote)
        texts[split] = caption_lengths.measure(drawn, tokenizer, captions)
        examples[split] = list(drawn.examples(config.examples))
    return write_page(report_html(index, statistics, texts, examples, captions), path)


def report_html(
    index: Index,
    statistics: Statistics,
    texts: Mapping[str, SplitTexts],
    examples: Mapping[str, Sequence[Record]],
    captions: CaptionConfig,
) -> str:
    """Render `templates/data_health.html`."""
    return render(
        "data_health.html",
        index=index,
        statistics=statistics,
        texts=texts,
        captions=captions,
        lengths=caption_lengths.row_capacity(captions),
        warnings=collect_findings(index, statistics, texts),
        kinds={split: _kinds(read) for split, read in texts.items()},
        measures=_MEASURES,
        names=_names,
        drawn={
            "lengths": [_length_chart(label, lengths) for label, lengths in _drawn(next(iter(texts.values())))],
            "sentences": _sentence_charts(next(iter(texts.values()))),
            "images": _image_charts(statistics),
        },
        contact_sheet={name: list(map(Card.of, records)) for name, records in examples.items()},
    )


@dataclass(frozen=True)
class Card:
    """A sample of the contact sheet, with a thumbnail, or an error if the image cannot be decoded."""

    record: Record
    small: Thumbnail | None
    error: str = ""

    @classmethod
    def of(cls, record: Record) -> "Card":
        """Make a card from a sample; a damaged image gives the error."""
        try:
            return cls(record, make_thumbnail(record.image, _THUMBNAIL, record.limits))
        except Exception as error:  # whatever a decoder raises, the report is made
            return cls(record, None, type(error).__name__)


def _names(fields: CaptionerNames) -> str:
    """Return the names of caption fields as text, with their captioners where they differ."""
    pairs = captioner_fields(fields)
    return ", ".join(name if captioner in ("", name) else f"{name} ({captioner})" for captioner, name in pairs)


def _kinds(read: SplitTexts) -> list[tuple[str, Lengths]]:
    kinds = [
        ("web caption", read.web),
        ("synthetic caption", read.synthetic),
        *((f"synthetic caption by {name}", lengths) for name, lengths in read.captioners.items()),
        *((f"fragment: {name}", lengths) for name, lengths in read.fragments.items()),
        ("human captions", read.human),
    ]
    return [(label, lengths) for label, lengths in kinds if len(lengths.values)]


def _drawn(read: SplitTexts) -> list[tuple[str, Lengths]]:
    """Return the kinds with a chart; of many captioners, only the first ones have one."""
    shown = dict(list(read.captioners.items())[:_MOST_CAPTIONER_CHARTS])
    return _kinds(replace(read, captioners=shown))


def _length_chart(label: str, lengths: Lengths) -> Chart:
    drawn = bars(np.array(lengths.values), lengths.capacity, 2 * lengths.capacity)
    summary = (
        f"median {format_number(lengths.quantile(0.5))}, 95 % up to {format_number(lengths.quantile(0.95))}, "
        f"truncated {format_percent(lengths.cut, len(lengths.values))}"
    )
    return Chart(histogram_chart(drawn, label, limit=lengths.capacity, unit="ids"), label, summary)


def _sentence_charts(read: SplitTexts) -> list[Chart]:
    if not len(read.sentences):
        return []
    title = "sentences per synthetic caption"
    return [Chart(histogram_chart(bars(read.sentences, most=_MOST_SENTENCES), title, unit="sentences"), title)]


# Histogram key, label, formatter of values, and a tick of the axis.
_MEASURES = (
    ("image_width", "width in pixels", format_number, 1),
    ("image_height", "height in pixels", format_number, 1),
    ("image_aspect", "width : height", lambda thousandths: f"{thousandths / 1000:.2f}", 1000),
    ("image_bytes", "encoded size", format_bytes, 1000),
)


def _image_charts(statistics: Statistics) -> list[Chart]:
    charts = []
    for name, label, show, base in _MEASURES:
        whole = Histogram()
        for split in statistics.splits.values():
            if name in split.histograms:
                whole = whole.merge(split.histograms[name])
        if whole.count:
            charts.append(Chart(histogram_chart(octave_bars(whole), label, doubling=base, show=show), label))
    return charts
