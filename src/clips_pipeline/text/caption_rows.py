"""The captions of one sample, as the rows each part of the model reads (CLIPS paper, section 3).

- the web caption, whole, for the text tower: contrast, and condition of the captioner;
- a fragment of the synthetic caption, for the text tower: contrast only;
- the synthetic caption, whole, as the captioner's target.

Other methods read less: `text.methods` has the table.
"""

import hashlib
import random
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, FormerName, Fraction, PositiveInt
from clips_pipeline.text.fragments import FragmentConfig, fragment
from clips_pipeline.text.methods import Method
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class CaptionConfig:
    """Lengths of the rows and the fragment.

    Attributes:
        context_length: places of a text tower row, three of them for BOS, EOS and CLS.
        target_length: places of a target row, two of them for BOS and EOS.
        fragment: how the fragment is made; its budget must fit into a text tower row.
        synthetic_fraction: of the samples that show their synthetic caption in place of the web caption, where the method mixes.
        web_tokens: ids that training leaves of a web caption, its first ones; None is all that the row holds. For studies of
            what shorter web captions do.
    """

    context_length: Annotated[int, Ge(4), Le(65_536)] = 80
    target_length: Annotated[int, Ge(3), Le(65_536)] = 128
    fragment: FragmentConfig = field(default_factory=FragmentConfig)
    synthetic_fraction: Annotated[Fraction, FormerName("synthetic_share")] = 0.2
    web_tokens: PositiveInt | None = None

    def __post_init__(self) -> None:
        room = self.context_length - 3
        if self.fragment.tokens is not None and self.fragment.tokens > room:
            raise ConfigError(
                f"fragment.tokens: {self.fragment.tokens} is more than context_length {self.context_length} holds; "
                f"use at most {room}, or context_length {self.fragment.tokens + 3}"
            )


class CaptionRows(NamedTuple):
    """Rows of ids of one sample. What a method does not read is an empty row."""

    web: list[int]
    """`context_length` ids: the caption that is contrasted first, or alone."""
    fragment: list[int]
    """`context_length` ids, or none."""
    target: list[int]
    """`target_length` ids, or none."""


class CaptionReader:
    """Turns the two captions of a sample into rows, the same way in every process.

    What is drawn is a pure function of (seed, epoch, key): it depends neither on the worker nor on what was read before.
    """

    def __init__(self, config: CaptionConfig, tokenizer: Tokenizer, seed: int, method: Method = "clips") -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self.method = method
        self._fragment = config.fragment
        if config.fragment.strategy != "sub_caption" and config.fragment.tokens is None:
            # Without this a mask without budget would always be the caption's beginning, cut by the row.
            self._fragment = replace(config.fragment, tokens=config.context_length - 3)

    def read(self, web: str, synthetic: str, *, epoch: int, key: str) -> CaptionRows:
        """Rows of one sample.

        When the synthetic caption has no usable piece, the web caption stands in for fragment and target, as published.
        Both may be empty: then the rows hold specials only. Methods other than `clips` read one text: `text.methods`.

        Args:
            web: the caption found on the web.
            synthetic: the caption a model wrote.
            epoch: passes over the data so far; another epoch gives another fragment.
            key: names the sample within its data set.
        """
        tokenizer, config = self.tokenizer, self.config
        if self.method != "clips":
            if self._reads_web(synthetic, epoch, key):
                return self._one_text(self.tokenizer.body(web)[: config.web_tokens])
            return self._one_text(self.tokenizer.body(synthetic))
        web_body = tokenizer.body(web)[: config.web_tokens]
        part = fragment(synthetic, self._fragment, tokenizer, generator(self.seed, epoch, key))
        web_row = tokenizer.encoder_row(web_body, config.context_length)
        if part is None:
            return CaptionRows(web_row, list(web_row), tokenizer.target_row(web_body, config.target_length))
        return CaptionRows(
            web_row,
            tokenizer.encoder_row(part, config.context_length),
            tokenizer.target_row(tokenizer.body(synthetic), config.target_length),
        )

    def _reads_web(self, synthetic: str, epoch: int, key: str) -> bool:
        if self.method == "clip" or not synthetic.strip():
            return True
        return generator(self.seed, epoch, key, "mixture").random() >= self.config.synthetic_fraction

    def _one_text(self, body: list[int]) -> CaptionRows:
        row = self.tokenizer.encoder_row(body, self.config.context_length)
        target = self.tokenizer.target_row(body, self.config.target_length) if self.method == "coca" else []
        return CaptionRows(row, [], target)


def generator(seed: int, epoch: int, key: str, purpose: str = "") -> random.Random:
    """A generator that is a pure function of its arguments, on every machine and in every process.

    Args:
        seed: of the training.
        epoch: passes over the data so far.
        key: of the sample.
        purpose: another purpose, of at most 16 bytes, draws other numbers for the same sample.
    """
    # Python's own hash() of a string differs from process to process.
    text = f"{seed}/{epoch}/{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, person=purpose.encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - no secret depends on it
