"""Rows of ids of one sample's captions, for text tower and captioner (CLIPS paper, section 3).

- The whole web caption, for the text tower: contrastive loss, and condition of the captioner.
- A fragment of the synthetic caption, for the text tower: contrastive loss only.
- The whole synthetic caption, as target of the captioner.

Of several captions of a kind, one is drawn for every epoch: the web caption, the synthetic caption of the fragment, and
that of the target.

The table in `text.methods` lists what other methods read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple, TypeVar

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, FormerName, Fraction, LaterField, PositiveInt
from clips_pipeline.text.captions import Caption, draw, generator, written_by
from clips_pipeline.text.fragments import FragmentConfig, fragment, several_fragments
from clips_pipeline.text.methods import Method
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class CaptionConfig:
    """Lengths of the rows, and the fragment strategy.

    Attributes:
        context_length: length of a text tower row, including BOS, EOS and CLS.
        target_length: length of a target row, including BOS and EOS.
        fragment: fragment strategy; its budget must fit into a text tower row.
        synthetic_fraction: fraction of the samples that use the synthetic caption in place of the web caption (methods mixture
            and coca).
        web_tokens: number of ids of a web caption that training reads, from its start; None reads as many as the row holds.
            For studies of shorter web captions.
        captioners: names of the captioners whose captions are used; None uses all synthetic captions of a sample.
        target_captioner: name of the captioner whose caption is the target of ours; None draws the target too. Samples
            without a caption of this captioner draw it.
        positives: fragments of each image that method clips contrasts it with, besides the web caption. Several are drawn from all
            synthetic captions of the image, without repetition as far as these have enough sentences.
    """

    context_length: Annotated[int, Ge(4), Le(65_536)] = 80
    target_length: Annotated[int, Ge(3), Le(65_536)] = 128
    fragment: FragmentConfig = field(default_factory=FragmentConfig)
    synthetic_fraction: Annotated[Fraction, FormerName("synthetic_share")] = 0.2
    web_tokens: PositiveInt | None = None
    captioners: Annotated[tuple[str, ...] | None, LaterField()] = None
    target_captioner: Annotated[str | None, LaterField()] = None
    positives: Annotated[int, Ge(1), Le(64), LaterField()] = 1

    def __post_init__(self) -> None:
        if self.captioners is not None:
            names = list(self.captioners)
            if not names or len(set(names)) < len(names):
                raise ConfigError(f"captioners: {names} must name at least one, and none of them twice")
            if self.target_captioner is not None and self.target_captioner not in names:
                raise ConfigError(
                    f"target_captioner: {self.target_captioner!r} is not among captioners {names}; add it there"
                )
        capacity = self.context_length - 3
        if self.fragment.tokens is not None and self.fragment.tokens > capacity:
            raise ConfigError(
                f"fragment.tokens: {self.fragment.tokens} exceeds the capacity of context_length {self.context_length}; "
                f"use at most {capacity}, or context_length {self.fragment.tokens + 3}"
            )


class CaptionRows(NamedTuple):
    """Rows of ids of one sample. A row that the method does not read is empty."""

    web: list[int]
    """`context_length` ids: the caption of the first (or only) contrastive term; empty without a text tower."""
    fragment: list[int]
    """`context_length` ids, or empty."""
    target: list[int]
    """`target_length` ids, or empty."""
    more_fragments: tuple[list[int], ...] = ()
    """Further fragments like `fragment`, all of `context_length` ids."""


class CaptionReader:
    """Makes the rows of a sample from its captions.

    Random choices are a pure function of (seed, epoch, key), independent of the loader worker and of previous samples.
    """

    def __init__(self, config: CaptionConfig, tokenizer: Tokenizer, seed: int, method: Method = "clips") -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self.method = method
        self._fragment = config.fragment
        if config.fragment.strategy != "sub_caption" and config.fragment.tokens is None:
            # Without a budget, a mask would keep the whole caption, which the row then truncates to its beginning.
            self._fragment = replace(config.fragment, tokens=config.context_length - 3)

    def read(self, web: Sequence[str], synthetic: Sequence[Caption], *, epoch: int, key: str) -> CaptionRows:
        """Make the rows of one sample.

        If the synthetic caption has no usable piece, the web caption replaces fragment and target, as published. If both
        captions are empty, the rows contain special ids only. Methods other than `clips` read one text, see `text.methods`.

        Args:
            web: web captions.
            synthetic: synthetic captions.
            epoch: number of completed passes over the data; fragment and drawn captions change with it.
            key: key of the sample.
        """
        tokenizer, config = self.tokenizer, self.config
        one_web = self._draw(web, epoch, key, "web") if web else ""
        used = written_by(synthetic, config.captioners)
        one_synthetic = self._draw(used, epoch, key, "synthetic").text if used else ""
        if self.method == "captioning":
            return CaptionRows([], [], self._target(used, one_synthetic, one_web, epoch, key))
        if self.method != "clips":
            if self._reads_web(one_synthetic, epoch, key):
                return self._one_text(self.tokenizer.body(one_web)[: config.web_tokens])
            return self._one_text(self.tokenizer.body(one_synthetic))
        web_body = tokenizer.body(one_web)[: config.web_tokens]
        parts = self._fragments(used, one_synthetic, epoch, key)
        web_row = tokenizer.encoder_row(web_body, config.context_length)
        if not parts:
            more = (list(web_row),) * (config.positives - 1)
            return CaptionRows(web_row, list(web_row), tokenizer.target_row(web_body, config.target_length), more)
        first, *others = (tokenizer.encoder_row(part, config.context_length) for part in parts)
        return CaptionRows(web_row, first, self._target(used, one_synthetic, "", epoch, key), tuple(others))

    def _fragments(self, used: Sequence[Caption], first: str, epoch: int, key: str) -> list[list[int]]:
        """Return as many fragments as there are positives, none if no caption has a usable piece.

        Args:
            used: the synthetic captions.
            first: text of the one that was drawn; several fragments are of all captions in turn, beginning with it.
            epoch: as in `read`.
            key: as in `read`.
        """
        rng = generator(self.seed, epoch, key)
        if self.config.positives == 1:
            part = fragment(first, self._fragment, self.tokenizer, rng)
            return [] if part is None else [part]
        texts = list(dict.fromkeys(caption.text for caption in used))
        others = [text for text in texts if text != first]
        captions = [first, *rng.sample(others, len(others))]
        return several_fragments(captions, self.config.positives, self._fragment, self.tokenizer, rng)

    def _target(self, used: Sequence[Caption], first: str, otherwise: str, epoch: int, key: str) -> list[int]:
        """Return the target row: a caption of the named captioner, or a drawn one; `otherwise` if none has ids.

        Args:
            used: the synthetic captions.
            first: text of the one that was drawn for the fragment; the target if another one has no ids.
            otherwise: the target if that has none either.
            epoch: as in `read`.
            key: as in `read`.
        """
        tokenizer, config = self.tokenizer, self.config
        named = written_by(used, None if config.target_captioner is None else (config.target_captioner,)) or used
        body = tokenizer.body(self._draw(named, epoch, key, "target").text) if named else []
        # A caption of signs that the tokenizer drops is no target.
        return tokenizer.target_row(body or tokenizer.body(first) or tokenizer.body(otherwise), config.target_length)

    def _draw(self, items: Sequence[T], epoch: int, key: str, purpose: str) -> T:
        return draw(items, self.seed, epoch, key, purpose)

    def _reads_web(self, synthetic: str, epoch: int, key: str) -> bool:
        if self.method == "clip" or not synthetic.strip():
            return True
        return generator(self.seed, epoch, key, "mixture").random() >= self.config.synthetic_fraction

    def _one_text(self, body: list[int]) -> CaptionRows:
        row = self.tokenizer.encoder_row(body, self.config.context_length)
        target = self.tokenizer.target_row(body, self.config.target_length) if self.method == "coca" else []
        return CaptionRows(row, [], target)
