"""Statistics of several captions an image: how many, by which captioner, how long, and which look like no captions."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from clips_pipeline.data.prepare.histogram import Histogram
from clips_pipeline.data.shards.records import Record

OTHER_CAPTIONERS = "(others)"
MAX_CAPTIONERS = 100
"""Captioners that are counted by name; a file of others may name a new one for every sample."""
LIST_AS_TEXT: Final = "list_as_text"
"""A caption that is a list written as one text, such as a cell of CSV that pandas wrote."""
REPEATED_CAPTION: Final = "repeated_synthetic_caption"
"""Two synthetic captions of the image are equal."""


@dataclass(frozen=True, slots=True)
class CaptionerStatistics:
    """Captions of one captioner.

    Attributes:
        samples: samples with at least one caption of this captioner.
        words: number of words of each of its captions, separated by white space.
    """

    samples: int = 0
    words: Histogram = field(default_factory=Histogram)

    def merge(self, other: "CaptionerStatistics") -> "CaptionerStatistics":
        """Return the statistics of the captions of both."""
        return CaptionerStatistics(self.samples + other.samples, self.words.merge(other.words))


@dataclass(frozen=True, slots=True)
class CaptionStatistics:
    """Captions of the usable samples, duplicates of earlier samples included.

    Attributes:
        web: number of web captions of each sample.
        synthetic: number of synthetic captions of each sample.
        captioners: statistics by captioner; an empty name is an unknown captioner.
    """

    web: Histogram = field(default_factory=Histogram)
    synthetic: Histogram = field(default_factory=Histogram)
    captioners: dict[str, CaptionerStatistics] = field(default_factory=dict)

    def merge(self, other: "CaptionStatistics") -> "CaptionStatistics":
        """Return the statistics of the samples of both."""
        captioners = limit_captioners(self.captioners, other.captioners)
        return CaptionStatistics(self.web.merge(other.web), self.synthetic.merge(other.synthetic), captioners)

    @property
    def is_plain(self) -> bool:
        """Whether no sample has several captions of a kind, and no captioner has a name."""
        return max(self.web.high, self.synthetic.high) <= 1 and not any(self.captioners)

    @property
    def names(self) -> tuple[str, ...]:
        """Captioners with a name; those of `OTHER_CAPTIONERS` are not known."""
        return tuple(name for name in self.captioners if name and name != OTHER_CAPTIONERS)


def limit_captioners(*parts: Mapping[str, CaptionerStatistics]) -> dict[str, CaptionerStatistics]:
    """Add up statistics by captioner, in the order of the names; those of too many names are added to `OTHER_CAPTIONERS`."""
    merged: dict[str, CaptionerStatistics] = {}
    for part in parts:
        for name, found in part.items():
            merged[name] = merged.get(name, CaptionerStatistics()).merge(found)
    if len(merged) > MAX_CAPTIONERS:
        others = sorted(
            (name for name in merged if name and name != OTHER_CAPTIONERS),
            key=lambda name: (-merged[name].samples, name),
        )
        for name in others[MAX_CAPTIONERS - 2 :]:
            merged[OTHER_CAPTIONERS] = merged.get(OTHER_CAPTIONERS, CaptionerStatistics()).merge(merged.pop(name))
    return dict(sorted(merged.items()))


@dataclass(frozen=True, slots=True)
class CaptionCount:
    """Captions of one sample.

    Attributes:
        web: number of web captions that are not blank.
        words: pairs of captioner and number of words, one for each synthetic caption that is not blank.
        oddities: a text for each reason why the captions look wrong.
    """

    web: int
    words: tuple[tuple[str, int], ...]
    oddities: dict[str, str]

    @classmethod
    def of(cls, record: Record) -> Self:
        """Count the captions of a sample."""
        synthetic = [(captioner, text.strip()) for text, captioner in record.synthetic_captions if text.strip()]
        web = [stripped for text in record.web_captions if (stripped := text.strip())]
        oddities = {}
        texts = [text for _, text in synthetic]
        if (listed := next(filter(is_list_as_text, (*web, *texts)), None)) is not None:
            oddities[LIST_AS_TEXT] = listed
        if len(set(texts)) < len(texts):
            oddities[REPEATED_CAPTION] = next(text for text in texts if texts.count(text) > 1)
        return cls(len(web), tuple((captioner, len(text.split())) for captioner, text in synthetic), oddities)


class CaptionCounter:
    """Sum of `CaptionCount`s."""

    def __init__(self) -> None:
        self._web: list[int] = []
        self._synthetic: list[int] = []
        self._samples: defaultdict[str, int] = defaultdict(int)
        self._words: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, count: CaptionCount) -> None:
        """Add the captions of one sample."""
        self._web.append(count.web)
        self._synthetic.append(len(count.words))
        for captioner in {captioner for captioner, _ in count.words}:
            self._samples[captioner] += 1
        for captioner, words in count.words:
            self._words[captioner].append(words)

    def statistics(self) -> CaptionStatistics:
        """Return the statistics of all captions so far."""
        captioners = {
            name: CaptionerStatistics(samples, Histogram.from_values(np.array(self._words[name])))
            for name, samples in self._samples.items()
        }
        web, synthetic = (Histogram.from_values(np.array(numbers)) for numbers in (self._web, self._synthetic))
        return CaptionStatistics(web, synthetic, limit_captioners(captioners))


def is_list_as_text(text: str) -> bool:
    """Return whether a text without outer white space is a list of texts as JSON or Python write it."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 2):
        return False
    return text[1:].lstrip()[:1] in ("'", '"') and text[:-1].rstrip()[-1:] in ("'", '"')
