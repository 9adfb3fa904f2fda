"""The data health report: what prepared data consists of, what was left out, and what the model will read of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clips_pipeline.config import ConfigError
from clips_pipeline.reports import caption_lengths
from clips_pipeline.reports.caption_lengths import CONTEXT, CONTEXT_ROOM, TARGET, TARGET_ROOM, DrawnSamples, SplitTexts
from clips_pipeline.reports.charts import bars, histogram_chart, octave_bars
from clips_pipeline.reports.contact_sheet import contact_sheet
from clips_pipeline.reports.findings import findings
from clips_pipeline.reports.page import bdi, contents, number, page, share, size, table, text, write_page
from clips_pipeline.shards.index import Index, load_index
from clips_pipeline.shards.reader import RemoteShards
from clips_pipeline.shards.records import Record
from clips_pipeline.shards.statistics import Histogram, SplitStatistics, Statistics, load_statistics
from clips_pipeline.text.tokenizer import Tokenizer

_DETAIL_CHARACTERS = 300
_MOST_SENTENCES = 30


@dataclass(frozen=True)
class HealthConfig:
    """How much of the data the report reads.

    Attributes:
        samples: at most so many of each split, for caption lengths; everything else is counted over all samples.
        examples: samples of each split in the contact sheet.
    """

    samples: int = 20_000
    examples: int = 12

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples is {self.samples}; at least 1 is needed")
        if self.examples < 0:
            raise ConfigError(f"examples is {self.examples}; give 0 or more")


def write_data_health(
    shards: Path, tokenizer: Tokenizer, config: HealthConfig, path: Path, remote: RemoteShards | None = None
) -> Path:
    """Write the report; the same data gives the same page.

    Args:
        shards: folder of the index and its statistics.
        tokenizer: gives the lengths.
        config: how much is read.
        path: of the HTML file; folders above it are made.
        remote: where shards that are not on this machine are copied to.

    Raises:
        ConfigError: index or statistics are missing or damaged, or a shard is.
    """
    index, statistics = load_index(shards), load_statistics(shards)
    texts: dict[str, SplitTexts] = {}
    examples: dict[str, list[Record]] = {}
    for split in index.splits:
        drawn = DrawnSamples(shards, split, config.samples, remote)
        texts[split] = caption_lengths.measure(drawn, tokenizer)
        examples[split] = list(drawn.some(config.examples))
    return write_page(report_html(index, statistics, texts, examples), path)


def report_html(
    index: Index, statistics: Statistics, texts: Mapping[str, SplitTexts], examples: Mapping[str, Sequence[Record]]
) -> str:
    """The whole page. All text from data is escaped: captions, keys, paths and reasons are foreign text."""
    sections = {
        "Samples": _samples(statistics),
        "Caption lengths": _lengths(texts),
        "Sentences": _sentences(texts),
        "Images": _images(statistics),
        "Duplicates": _duplicates(statistics),
        "Shards": _shards(index),
        "Contact sheet": contact_sheet(examples),
    }
    return page("Data health", _summary(index, statistics, texts), contents(sections))


def _summary(index: Index, statistics: Statistics, texts: Mapping[str, SplitTexts]) -> str:
    warnings = findings(index, statistics, texts)
    if warnings:
        items = "".join(f"<li>{text(warning)}</li>" for warning in warnings)
        verdict = f'<div class="warnings"><strong>Look at this first</strong><ul>{items}</ul></div>'
    else:
        verdict = "<p>Nothing stands out.</p>"
    rows = []
    for name, shards in index.splits.items():
        read = texts[name]
        rows.append(
            [
                bdi(name),
                number(index.split_samples(name)),
                number(statistics.splits.get(name, SplitStatistics()).lost),
                size(sum(shard.bytes for shard in shards)),
                number(read.web.quantile(0.5)),
                number(read.synthetic.quantile(0.5)),
                share(read.web.cut, len(read.web.values)),
                share(read.synthetic.cut, len(read.synthetic.values)),
            ]
        )
    head = ["split", "samples", "unusable", "bytes", "web ids", "synthetic ids", "web cut", "synthetic cut"]
    caption = f"Lengths are medians; cut: longer than a context of {CONTEXT} (web) or a target of {TARGET} (synthetic)"
    return (
        f"{verdict}\n{table(head, rows, caption)}\n<p>Data version <code>{text(index.version[:16])}</code>; "
        f"{share(statistics.lost_share(), 1)} of what the source offered cannot be used.</p>"
    )


def _samples(statistics: Statistics) -> str:
    rows = []
    for name, split in statistics.splits.items():
        seen = split.kept + sum(split.filtered.values()) + sum(split.skipped.values())
        rows.append([bdi(name), "in the index", "", number(split.kept), share(split.kept, seen)])
        for fate, counts in (("cannot be used", split.skipped), ("filtered", split.filtered), ("odd", split.noted)):
            rows += [[bdi(name), fate, bdi(reason), number(n), share(n, seen)] for reason, n in counts.items()]
    intro = (
        "<p>What became of every sample that the source offered. A reason that grows from one data version to the next points "
        "to the source; odd samples are in the index all the same.</p>"
    )
    counted = table(["split", "fate", "reason", "samples", "share"], rows, "Samples by split and reason", foreign=(2,))
    if not statistics.examples:
        return intro + counted + "<p>No sample was left out.</p>"
    found = [
        [bdi(value, _DETAIL_CHARACTERS) for value in (e.split, e.reason, e.shard, e.key, e.detail)]
        for e in statistics.examples
    ]
    head = ["split", "reason", "shard", "key", "detail"]
    return intro + counted + table(head, found, "The first few of every split and reason", foreign=(1, 2, 3, 4))


def _lengths(texts: Mapping[str, SplitTexts]) -> str:
    read = "; ".join(
        f"{bdi(name)}: {number(t.samples)} of {number(t.of_samples)} samples, from {number(t.shards)} of "
        f"{number(t.of_shards)} shards drawn at random"
        for name, t in texts.items()
    )
    intro = (
        f"<p>What the text tower and the captioner read, in ids without specials. The text tower takes {CONTEXT_ROOM} "
        f"(context {CONTEXT}), the captioner {TARGET_ROOM} (target {TARGET}): the defaults of training, whose own settings may "
        "differ. Fragments are made with each strategy's default: sub_caption takes one whole sentence; the others, given "
        f"no budget, take {CONTEXT_ROOM} ids, so their lengths are alike and only the places differ. Look for bars in the colour "
        "of the mark: what lies beyond it is lost; the last bar holds all that is longer. A pile right before the mark is what a "
        "strategy has cut to fit.</p>"
        f'<p class="soft">Read for this section: {read}.</p>'
    )
    name, first = next((name, t) for name, t in texts.items())
    charts = [_length_chart(label, lengths) for label, lengths in _kinds(first)]
    rows = [
        [bdi(split), text(label), *_length_cells(lengths)] for split, t in texts.items() for label, lengths in _kinds(t)
    ]
    head = ["split", "text", "texts", "median", "95 % up to", "longest", "cut", "empty", "web instead", "unknown ids"]
    caption = "Lengths in ids; web instead: fragments without a usable piece, for which the web caption stands in"
    return f'{intro}<h3>{bdi(name)}</h3><div class="charts">{"".join(charts)}</div>{table(head, rows, caption)}'


def _length_cells(lengths: caption_lengths.Lengths) -> list[str]:
    count = len(lengths.values)
    quantiles = [number(lengths.quantile(part)) for part in (0.5, 0.95, 1)]
    shares = [share(lengths.cut, count), share(lengths.empty, count)]
    unknown = share(lengths.unknown, int(lengths.values.sum()))
    return [number(count), *quantiles, *shares, number(lengths.replaced), unknown]


def _kinds(read: SplitTexts) -> list[tuple[str, caption_lengths.Lengths]]:
    fragments = [(f"fragment: {name}", lengths) for name, lengths in read.fragments.items()]
    kinds = [
        ("web caption", read.web),
        ("synthetic caption", read.synthetic),
        *fragments,
        ("human captions", read.human),
    ]
    return [(label, lengths) for label, lengths in kinds if len(lengths.values)]


def _length_chart(label: str, lengths: caption_lengths.Lengths) -> str:
    limit_name = f"{lengths.room} ids"
    svg = histogram_chart(
        bars(lengths.values, lengths.room, 2 * lengths.room),
        label,
        limit=lengths.room,
        limit_name=limit_name,
        unit="ids",
    )
    told = (
        f"median {number(lengths.quantile(0.5))}, 95 % up to {number(lengths.quantile(0.95))}, "
        f"cut {share(lengths.cut, len(lengths.values))}"
    )
    return f"<figure>{svg}<figcaption><strong>{text(label)}</strong>: {told}</figcaption></figure>"


def _sentences(texts: Mapping[str, SplitTexts]) -> str:
    rows = [
        [
            bdi(name),
            number(float(np.mean(t.sentences))),
            number(int(np.median(t.sentences))),
            number(int(t.sentences.max())),
        ]
        + [share(int((t.sentences == count).sum()), len(t.sentences)) for count in range(4)]
        + [share(int((t.sentences >= 4).sum()), len(t.sentences))]
        for name, t in texts.items()
        if len(t.sentences)
    ]
    head = ["split", "mean", "median", "most", "none", "1", "2", "3", "4 and more"]
    intro = (
        "<p>Sub-captions of the synthetic captions, by the published rule (every run of “.” or “!” ends one). Captions of one "
        "sentence leave sub_caption nothing to choose; decimals and abbreviations count as ends and make many short ones.</p>"
    )
    first = next(iter(texts.values()))
    chart = ""
    if len(first.sentences):
        svg = histogram_chart(
            bars(first.sentences, most=_MOST_SENTENCES), "sentences per synthetic caption", unit="sentences"
        )
        chart = (
            f'<div class="charts"><figure>{svg}<figcaption>sentences per synthetic caption</figcaption></figure></div>'
        )
    return intro + chart + table(head, rows, "Sentences per synthetic caption")


def _images(statistics: Statistics) -> str:
    measures = [
        ("image_width", "width in pixels", number, 1),
        ("image_height", "height in pixels", number, 1),
        ("image_aspect", "width : height", _aspect, 1000),
        ("image_bytes", "encoded size", size, 1000),
    ]
    rows, charts = [], []
    for name, label, show, base in measures:
        found = {split: s.histograms[name] for split, s in statistics.splits.items() if name in s.histograms}
        rows += [
            [bdi(split), label, *(show(h.quantile(part)) for part in (0.05, 0.5, 0.95)), show(h.low), show(h.high)]
            for split, h in found.items()
            if h.count
        ]
        whole = Histogram()
        for histogram in found.values():
            whole = whole.plus(histogram)
        if whole.count:
            svg = histogram_chart(octave_bars(whole), label, doubling=base, show=show)
            charts.append(f"<figure>{svg}<figcaption>{label}</figcaption></figure>")
    intro = (
        "<p>Of all samples in the index, before any resizing; each step of the axes doubles. Images smaller than the model's own "
        "size are enlarged and teach it blur; of long ones a square crop shows little; few bytes for many pixels mean blank or "
        "crushed pictures.</p>"
    )
    head = ["split", "measure", "5 % up to", "median", "95 % up to", "smallest", "largest"]
    return f'{intro}<div class="charts">{"".join(charts)}</div>{table(head, rows, "Images; quantiles to a sixteenth")}'


def _aspect(thousandths: float) -> str:
    return f"{thousandths / 1000:.2f}"


def _duplicates(statistics: Statistics) -> str:
    rows = []
    for name, s in statistics.splits.items():
        whole = s.kept + sum(s.filtered.values())
        for label, count in (
            ("image of an earlier sample, byte for byte", s.duplicate_images),
            ("web caption of an earlier sample", s.duplicate_captions),
            ("web and synthetic caption are the same", s.identical_captions),
        ):
            rows.append([bdi(name), label, number(count), share(count, whole)])
    intro = (
        "<p>Within each split, over all usable samples, whether a filter drops them or not. Two samples of one image, or of one "
        "caption, are taught to be different when they meet in a batch.</p>"
    )
    return intro + table(["split", "what", "samples", "share"], rows, "Duplicates")


def _shards(index: Index) -> str:
    rows = []
    for name, shards in index.splits.items():
        samples, sizes = [s.samples for s in shards], [s.bytes for s in shards]
        if not shards:
            continue
        rows.append(
            [bdi(name), number(len(shards)), number(sum(samples)), size(sum(sizes))]
            + [number(v) for v in (min(samples), float(np.median(samples)), max(samples))]
            + [size(v) for v in (min(sizes), float(np.median(sizes)), max(sizes))]
            + [number(sum("://" in s.path for s in shards))]
        )
    head = ["split", "shards", "samples", "bytes", "fewest", "median", "most", "smallest", "median", "largest"]
    head += ["elsewhere"]
    facts = [
        ["data version", f"<code>{text(index.version)}</code>"],
        ["fingerprint", f"<code>{text(index.fingerprint)}</code>"],
        ["web caption", f"<code>{text(index.fields.web)}</code>"],
        ["synthetic caption", f"<code>{text(index.fields.synthetic)}</code>"],
        ["score", f"<code>{text(index.fields.score)}</code>" if index.fields.score else "not read"],
    ]
    intro = (
        "<p>Even sizes make for even loading; shards of very few samples cost a file each. Elsewhere: read from another machine. "
        "The data version is a digest of the samples' bytes, the same on every machine, and travels with each model; the "
        "fingerprint is one of source, parameters and format version.</p>"
    )
    return (
        intro
        + table(head, rows, "Shards: samples and bytes of each")
        + table(["fact", "value"], facts, "Index: version, and the fields that captions are read from", foreign=(1,))
    )
