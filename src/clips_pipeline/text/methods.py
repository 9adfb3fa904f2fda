"""Training methods. They share sample order, towers and losses.

| method | text tower reads | captioner |
| --- | --- | --- |
| clip | the web caption | none |
| mixture | the web caption, or for a fraction of the samples the whole synthetic caption | none |
| coca | the same as mixture | predicts the same text from the image and the previous tokens (teacher forcing) |
| clips | the web caption, and fragments of the synthetic caption | predicts the whole synthetic caption in parallel |
| captioning | no text tower | predicts the whole synthetic caption from the image and the previous tokens |

`mixture` is the paper's setting for CLIPA, and `coca` its setting for CoCa: "original caption with probability 80 %,
synthetic 20 %" (CLIPS paper, project page; docs/explanation/method.md). `captioning` is that of OpenVision 2 (arXiv 2509.01644).
"""

from typing import Literal

Method = Literal["clip", "mixture", "coca", "clips", "captioning"]

CAPTIONING_METHODS: frozenset[str] = frozenset({"coca", "clips", "captioning"})
"""Methods whose model has a captioner."""

AUTOREGRESSIVE_METHODS: frozenset[str] = frozenset({"coca", "captioning"})
"""Methods whose captioner reads the previous tokens."""

CONTRASTIVE_METHODS: frozenset[str] = frozenset({"clip", "mixture", "coca", "clips"})
"""Methods whose model has a text tower."""
