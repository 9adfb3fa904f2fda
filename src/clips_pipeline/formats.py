"""The version of each kind of output: raised by one when the same input gives another output.

What a version vouches for is made again when the version changes, and only then: a comment, a message or a style sheet costs
nobody days of preparing data. `tests/contracts/test_golden_formats.py` fails when an output changes and its version does not.
DVC reads this file as parameters, so every value is a plain number here: docs/versioning.md.
"""

SHARDS = 2
"""Shards, index, offsets, statistics and classes, of every kind of source."""

SCENES = 1
"""Pictures and captions of the embedded data; no other source's shards are made again for it."""

TOKENIZER = 1
"""The tokenizer's files."""

DATA_HEALTH = 2
"""What the data health report says, not how the page looks."""

TRAINING = 1
"""What a training of the same run spec gives: losses, weights, sample order, the model folder."""

EMBEDDINGS = 1
"""What one pass of a model over images or texts gives: embeddings, caption losses, written captions."""

EVALUATION = 1
"""Metrics and per-item results of the same embeddings."""

REGISTRATION = 1
"""The gate's decision on the same results, and what is kept with a version."""
