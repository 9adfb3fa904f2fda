"""The captions of one sample, as the rows each part of the model reads (CLIPS paper, section 3).

- the web caption, whole, for the text tower: contrast, and condition of the captioner;
- a fragment of the synthetic caption, for the text tower: contrast only;
- the synthetic caption, whole, as the captioner's target.
"""

import hashlib
import random
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from clips_pipeline.config import ConfigError
from clips_pipeline.text.fragments import FragmentConfig, fragment
from clips_pipeline.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class CaptionConfig:
    """Lengths of the rows and the fragment.

    Attributes:
        context_length: places of a text tower row, three of them for BOS, EOS and CLS.
        target_length: places of a target row, two of them for BOS and EOS.
        fragment: how the fragment is made; its budget must fit into a text tower row.
    """

    context_length: int = 80
    target_length: int = 128
    fragment: FragmentConfig = field(default_factory=FragmentConfig)

    def __post_init__(self) -> None:
        if self.context_length < 4:
            raise ConfigError(f"context_length: {self.context_length} has no place for a caption; use 4 or more")
        if self.target_length < 3:
            raise ConfigError(f"target_length: {self.target_length} has no place for a caption; use 3 or more")
        room = self.context_length - 3
        if self.fragment.tokens is not None and self.fragment.tokens > room:
            raise ConfigError(
                f"fragment.tokens: {self.fragment.tokens} is more than context_length {self.context_length} holds; "
                f"use at most {room}, or context_length {self.fragment.tokens + 3}"
            )


class CaptionRows(NamedTuple):
    """Rows of ids of one sample."""

    web: list[int]
    """`context_length` ids."""
    fragment: list[int]
    """`context_length` ids."""
    target: list[int]
    """`target_length` ids."""


class CaptionReader:
    """Turns the two captions of a sample into rows, the same way in every process.

    The fragment is a pure function of (seed, epoch, key): it depends neither on the worker nor on what was read before.
    """

    def __init__(self, config: CaptionConfig, tokenizer: Tokenizer, seed: int) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.seed = seed
        self._fragment = config.fragment
        if config.fragment.strategy != "sub_caption" and config.fragment.tokens is None:
            # Without this a mask without budget would always be the caption's beginning, cut by the row.
            self._fragment = replace(config.fragment, tokens=config.context_length - 3)

    def read(self, web: str, synthetic: str, *, epoch: int, key: str) -> CaptionRows:
        """Rows of one sample.

        When the synthetic caption has no usable piece, the web caption stands in for fragment and target, as published.
        Both may be empty: then the rows hold specials only.

        Args:
            web: the caption found on the web.
            synthetic: the caption a model wrote.
            epoch: passes over the data so far; another epoch gives another fragment.
            key: names the sample within its data set.
        """
        tokenizer, config = self.tokenizer, self.config
        web_body = tokenizer.body(web)
        part = fragment(synthetic, self._fragment, tokenizer, generator(self.seed, epoch, key))
        web_row = tokenizer.encoder_row(web_body, config.context_length)
        if part is None:
            return CaptionRows(web_row, list(web_row), tokenizer.target_row(web_body, config.target_length))
        return CaptionRows(
            web_row,
            tokenizer.encoder_row(part, config.context_length),
            tokenizer.target_row(tokenizer.body(synthetic), config.target_length),
        )


def generator(seed: int, epoch: int, key: str) -> random.Random:
    """A generator that is a pure function of its arguments, on every machine and in every process."""
    # Python's own hash() of a string differs from process to process.
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - no secret depends on it
