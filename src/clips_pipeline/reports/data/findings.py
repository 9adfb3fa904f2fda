"""Findings of the data health report: what looks wrong with prepared data, as sentences."""

from collections.abc import Mapping

from clips_pipeline.data.prepare.statistics import SplitStatistics, Statistics
from clips_pipeline.data.shards.index import Index
from clips_pipeline.data.shards.unexpected import UNEXPECTED
from clips_pipeline.reports.data.caption_lengths import SplitTexts
from clips_pipeline.reports.page import format_number, format_percent

# Fractions above which a finding is reported, other thresholds below.
MOST_CUT = 0.2
MOST_LOST = 0.01
MOST_DUPLICATE_IMAGES = 0.05
MOST_DUPLICATE_CAPTIONS = 0.3
MOST_IDENTICAL = 0.05
MOST_FREQUENT = 0.1
LEAST_WRITTEN = 0.5
MOST_UNKNOWN = 0.05
MOST_EMPTY = 0.05
MOST_LONG = 0.05
LONG_ASPECT = 3
LEAST_SENTENCES = 2
FEW_SAMPLES = 100


def collect_findings(index: Index, statistics: Statistics, texts: Mapping[str, SplitTexts]) -> list[str]:
    """Return one sentence per finding, the most serious kind first; an empty list if there is none."""
    found = []
    for name, split in statistics.splits.items():
        found += _sample_findings(name, split, index.fields.needed)
    for name, read in texts.items():
        found += _text_findings(name, read)
    for name, split in statistics.splits.items():
        found += _image_findings(name, split)
    found += [
        f"{name}: only {format_number(index.split_samples(name))} samples; metrics on so few samples are noisy."
        for name in index.splits
        if index.split_samples(name) < FEW_SAMPLES
    ]
    return found


def _sample_findings(name: str, split: SplitStatistics, captions_needed: bool) -> list[str]:
    found = []
    seen = split.kept + sum(split.filtered.values()) + split.unusable
    if split.damaged_shards:
        counts = f"{format_number(split.damaged_shards)} of {format_number(split.shards)}"
        found.append(f"{name}: {counts} shards cannot be read to the end.")
    if split.unusable > MOST_LOST * seen:
        reason = max(split.skipped, key=lambda name: split.skipped[name], default="damaged shards")
        percent = format_percent(split.unusable, seen)
        found.append(f"{name}: {percent} of the samples are unusable; the most frequent reason is {reason}.")
    for reason, count in split.skipped.items():
        if reason.startswith(UNEXPECTED):
            found.append(
                f"{name}: {format_number(count)} samples raised an error that nobody foresaw ({reason}); the examples name "
                "them. Please report it."
            )
    for reason, count in split.noted.items():
        found.append(f"{name}: {format_number(count)} samples in the index are unusual: {reason}.")
    if not captions_needed:
        # Samples without a caption would all count as duplicates of each other.
        return found
    whole = split.kept + sum(split.filtered.values())
    if split.duplicate_captions > MOST_DUPLICATE_CAPTIONS * whole:
        found.append(
            f"{name}: {format_percent(split.duplicate_captions, whole)} of the web captions are duplicates of an earlier one; "
            "in a batch, such pairs are negatives of each other."
        )
    if split.identical_captions > MOST_IDENTICAL * whole:
        found.append(
            f"{name}: web and synthetic caption are identical in {format_percent(split.identical_captions, whole)} of the "
            "samples; check that the right field is read."
        )
    used = split.captions.synthetic.count
    for captioner, of_captioner in split.captions.captioners.items():
        if captioner and of_captioner.samples < LEAST_WRITTEN * used:
            found.append(
                f"{name}: captioner {captioner} has written captions of {format_percent(of_captioner.samples, used)} of the "
                "samples only; check the name of its field. In the others, training draws from the captions there are."
            )
    return found


def _image_findings(name: str, split: SplitStatistics) -> list[str]:
    found = []
    whole = split.kept + sum(split.filtered.values())
    if split.duplicate_images > MOST_DUPLICATE_IMAGES * whole:
        percent = format_percent(split.duplicate_images, whole)
        found.append(f"{name}: {percent} of the images are exact duplicates of an earlier one.")
    aspect = split.histograms.get("image_aspect")
    if aspect is not None and aspect.count:
        long = sum(count for start, count in aspect.bins if start >= 1000 * LONG_ASPECT or start * LONG_ASPECT < 1000)
        if long > MOST_LONG * aspect.count:
            found.append(
                f"{name}: {format_percent(long, aspect.count)} of the images have one side more than {LONG_ASPECT} times as "
                "long as the other; a square crop shows a small part of them."
            )
    return found


def _text_findings(name: str, read: SplitTexts) -> list[str]:
    found = []
    if read.unreadable:
        found.append(
            f"{name}: {format_number(read.unreadable)} samples of the index could not be read for this report."
        )
    for kind, (text, count) in read.frequent.items():
        if count > MOST_FREQUENT * read.samples and count > 1:
            found.append(
                f"{name}: {format_percent(count, read.samples)} of the samples have one and the same {kind} caption, "
                f"{text[:80]!r}; such a caption says nothing about its image. Filter it, or check the field that is read."
            )
    webs, synthetics = len(read.web.values), len(read.synthetic.values)
    if read.web.cut > MOST_CUT * webs:
        found.append(
            f"{name}: {format_percent(read.web.cut, webs)} of the web captions are truncated: they are longer than the "
            f"{read.web.capacity} ids that the text tower reads; see train.captions.context_length and "
            "train.captions.web_tokens."
        )
    if read.synthetic.cut > MOST_CUT * synthetics:
        found.append(
            f"{name}: {format_percent(read.synthetic.cut, synthetics)} of the synthetic captions are truncated: they are longer "
            f"than the {read.synthetic.capacity} ids of a target row of length {read.synthetic.capacity + 2}, so the captioner "
            "does not learn their ends; see train.captions.target_length."
        )
    if synthetics and read.synthetic.quantile(0.5) < 2 * read.web.quantile(0.5):
        found.append(
            f"{name}: the synthetic captions are short: {format_number(read.synthetic.quantile(0.5))} ids (median), against "
            f"{format_number(read.web.quantile(0.5))} of the web captions; CLIPS needs long synthetic captions."
        )
    few = int((read.sentences < LEAST_SENTENCES).sum())
    if 2 * few > synthetics:
        found.append(
            f"{name}: {format_percent(few, synthetics)} of the synthetic captions have fewer than {LEAST_SENTENCES} sentences; "
            "sub_caption then always uses the whole caption."
        )
    for label, lengths in (("web", read.web), ("synthetic", read.synthetic), ("human", read.human)):
        ids = sum(lengths.values)
        if lengths.unknown > MOST_UNKNOWN * ids:
            found.append(
                f"{name}: {format_percent(lengths.unknown, ids)} of the ids of {label} captions are UNK; check that the tokenizer "
                "is the right one."
            )
    sub_caption = read.fragments["sub_caption"]
    blank = sub_caption.empty + sub_caption.replaced
    if blank > MOST_EMPTY * synthetics:
        found.append(
            f"{name}: {format_percent(blank, synthetics)} of the sub_caption fragments are empty or replaced by the web caption; "
            "see train.captions.fragment.blank_pieces."
        )
    return found
