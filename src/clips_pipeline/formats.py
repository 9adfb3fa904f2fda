"""Format versions of all outputs. Raise a version by one when the same input gives a different output.

Outputs are made again when their version changes, and only then: editing a comment, a message or a style sheet does not
prepare all data again. `tests/contracts/test_golden_formats.py` fails when an output changes and its version does not.
DVC reads this file as parameters (docs/reference/contracts.md), so every value must be a plain number.
"""

SHARDS = 3
"""Shards, index, offsets, statistics and classes, for every kind of source."""

SCENES = 3
"""Images, captions and questions of the embedded data; does not affect shards of other sources."""

TOKENIZER = 1
"""Files of the tokenizer."""

DATA_HEALTH = 3
"""Content of the data health report, not its layout."""

TRAINING = 1
"""Result of a training for the same run spec: losses, weights, sample order, the model folder."""

MOVING_AVERAGE = 2
"""The same for trainings with `train.ema`. Before 2, an evaluation during the training replaced the weights by their average."""

EMBEDDINGS = 1
"""Results of inference over images or texts: embeddings, caption losses, generated captions."""

EVALUATION = 2
"""Metrics and per-item results for the same embeddings."""

REGISTRATION = 2
"""The gate's decision for the same results, and what is stored with a version."""
