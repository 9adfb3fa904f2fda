"""What looks wrong with prepared data, as sentences; and the few numbers that sum it up."""

from collections.abc import Mapping

from clips_pipeline.data.prepare.statistics import SplitStatistics, Statistics
from clips_pipeline.data.shards.index import Index
from clips_pipeline.reports.data.caption_lengths import SplitTexts
from clips_pipeline.reports.page import number, share

# Shares from which on something is worth a warning.
MOST_CUT = 0.2
MOST_LOST = 0.01
MOST_DUPLICATE_IMAGES = 0.05
MOST_DUPLICATE_CAPTIONS = 0.3
MOST_IDENTICAL = 0.05
MOST_UNKNOWN = 0.05
MOST_EMPTY = 0.05
MOST_LONG = 0.05
LONG_ASPECT = 3
LEAST_SENTENCES = 2
FEW_SAMPLES = 100


def findings(index: Index, statistics: Statistics, texts: Mapping[str, SplitTexts]) -> list[str]:
    """Plain sentences, the gravest kind first; none where nothing stands out."""
    found = []
    for name, split in statistics.splits.items():
        found += _of_samples(name, split, index.fields.needed)
    for name, read in texts.items():
        found += _of_texts(name, read)
    for name, split in statistics.splits.items():
        found += _of_images(name, split)
    found += [
        f"{name}: only {number(index.split_samples(name))} samples; numbers measured on so few vary by chance."
        for name in index.splits
        if index.split_samples(name) < FEW_SAMPLES
    ]
    return found


def _of_samples(name: str, split: SplitStatistics, captions_needed: bool) -> list[str]:
    found = []
    seen = split.kept + sum(split.filtered.values()) + split.unusable
    if split.damaged_shards:
        found.append(
            f"{name}: {number(split.damaged_shards)} of {number(split.shards)} shards cannot be read to their end."
        )
    if split.unusable > MOST_LOST * seen:
        reason = max(split.skipped, key=lambda name: split.skipped[name], default="damaged shards")
        found.append(
            f"{name}: {share(split.unusable, seen)} of the samples cannot be used; the most frequent reason is {reason}."
        )
    for reason, count in split.noted.items():
        found.append(f"{name}: {number(count)} samples in use are odd: {reason}.")
    if not captions_needed:
        # All that lack one would count as repeating one another.
        return found
    whole = split.kept + sum(split.filtered.values())
    if split.duplicate_captions > MOST_DUPLICATE_CAPTIONS * whole:
        found.append(
            f"{name}: {share(split.duplicate_captions, whole)} of the web captions repeat an earlier one; in a batch such pairs "
            "are each other's negatives."
        )
    if split.identical_captions > MOST_IDENTICAL * whole:
        found.append(
            f"{name}: web and synthetic caption are the same in {share(split.identical_captions, whole)} of the samples; "
            "is the right field read?"
        )
    return found


def _of_images(name: str, split: SplitStatistics) -> list[str]:
    found = []
    whole = split.kept + sum(split.filtered.values())
    if split.duplicate_images > MOST_DUPLICATE_IMAGES * whole:
        found.append(
            f"{name}: {share(split.duplicate_images, whole)} of the images repeat an earlier one byte for byte."
        )
    aspect = split.histograms.get("image_aspect")
    if aspect is not None and aspect.count:
        long = sum(count for start, count in aspect.bins if start >= 1000 * LONG_ASPECT or start * LONG_ASPECT < 1000)
        if long > MOST_LONG * aspect.count:
            found.append(
                f"{name}: {share(long, aspect.count)} of the images have one side more than {LONG_ASPECT} times the other; a "
                "square crop shows little of them."
            )
    return found


def _of_texts(name: str, read: SplitTexts) -> list[str]:
    found = []
    if read.unreadable:
        found.append(f"{name}: {number(read.unreadable)} samples of the index could not be read for this report.")
    webs, synthetics = len(read.web.values), len(read.synthetic.values)
    if read.web.cut > MOST_CUT * webs:
        found.append(
            f"{name}: {share(read.web.cut, webs)} of the web captions are longer than the {read.web.room} ids that the "
            "text tower reads of them, and are cut; see train.captions.context_length and .web_tokens."
        )
    if read.synthetic.cut > MOST_CUT * synthetics:
        found.append(
            f"{name}: {share(read.synthetic.cut, synthetics)} of the synthetic captions are longer than the "
            f"{read.synthetic.room} ids that a target of {read.synthetic.room + 2} holds; the captioner never learns their ends. "
            "See train.captions.target_length."
        )
    if synthetics and read.synthetic.quantile(0.5) < 2 * read.web.quantile(0.5):
        found.append(
            f"{name}: synthetic captions are short: {number(read.synthetic.quantile(0.5))} ids (median), web captions "
            f"{number(read.web.quantile(0.5))}. CLIPS lives on synthetic captions that are long."
        )
    few = int((read.sentences < LEAST_SENTENCES).sum())
    if 2 * few > synthetics:
        found.append(
            f"{name}: {share(few, synthetics)} of the synthetic captions have fewer than {LEAST_SENTENCES} sentences, so that "
            "sub_caption reads them whole, without chance."
        )
    for label, lengths in (("web", read.web), ("synthetic", read.synthetic), ("human", read.human)):
        ids = sum(lengths.values)
        if lengths.unknown > MOST_UNKNOWN * ids:
            found.append(
                f"{name}: {share(lengths.unknown, ids)} of the ids of {label} captions stand for words that the vocabulary "
                "cannot spell; is it the right tokenizer?"
            )
    sub_caption = read.fragments["sub_caption"]
    blank = sub_caption.empty + sub_caption.replaced
    if blank > MOST_EMPTY * synthetics:
        found.append(
            f"{name}: {share(blank, synthetics)} of the sub_caption fragments are empty or replaced by the web caption; "
            "see train.captions.fragment.blank_pieces."
        )
    return found
