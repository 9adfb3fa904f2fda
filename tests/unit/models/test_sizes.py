"""Named sizes: published parameter counts, and errors of impossible sizes."""

import dataclasses

import pytest
import torch

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES, ClipsConfig

# Published: vision, text, total (with the temperature). Theirs counts the fixed position table of the vision tower.
COUNTS = {
    ("s16", 224): (21_812_736, 33_760_512, 55_573_249),
    ("b16", 224): (86_191_104, 54_516_736, 140_707_841),
    ("l16", 224): (304_087_040, 110_283_264, 414_370_305),
    ("l14", 224): (303_964_160, 110_283_264, 414_247_425),
    ("l14", 336): (304_291_840, 110_283_264, 414_575_105),
    ("h14", 224): (632_074_240, 336_209_920, 968_284_161),
}
CAPTIONERS = {"s16": 33.9, "b16": 54.9, "l16": 111.1, "l14": 111.1, "h14": 337.6}


def numel(module):
    return sum(parameter.numel() for parameter in module.parameters())


def at(name, image_size):
    config = SIZES[name]
    return dataclasses.replace(config, vision=dataclasses.replace(config.vision, image_size=image_size))


@pytest.mark.parametrize(("name", "image_size"), COUNTS)
def test_parameter_counts_are_the_published_ones(name, image_size):
    config = at(name, image_size)
    with torch.device("meta"):
        model = ClipsModel(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    table = (1 + config.vision.tokens) * config.vision.width
    vision, text = numel(model.vision) + table, numel(model.text)
    assert (vision, text, vision + text + model.logit_scale.numel()) == COUNTS[name, image_size]
    assert round(numel(model.captioner) / 1e6, 1) == CAPTIONERS[name]


def test_the_image_size_changes_no_parameter():
    with torch.device("meta"):
        small, large = (
            {name: p.shape for name, p in ClipsModel(at("l14", size)).named_parameters()} for size in (84, 336)
        )
    assert small == large


def test_tiny_fits_a_laptop():
    model = ClipsModel(SIZES["tiny"])
    assert 1e6 < numel(model) < 4e6
    assert (SIZES["tiny"].vision.image_size, SIZES["tiny"].vision.patch_size) == (64, 32)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_survive_a_mapping(name):
    assert from_mapping(ClipsConfig, to_mapping(SIZES[name]), "model") == SIZES[name]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision", {"image_size": 225}, "not a multiple of the patch size of 14; use 224"),
        ("vision", {"image_size": 7}, "not a multiple of the patch size of 14; use 14"),
        ("vision", {"heads": 15}, "cannot be split into 15 heads"),
        ("vision", {"width": 66, "heads": 1}, "multiple of 4"),
        ("vision", {"depth": 0}, r"model\.vision\.depth: 0 must be at least 1"),
        ("text", {"heads": 5}, r"model\.text\.heads: a width of 768 cannot be split into 5 heads; use 4"),
        ("text", {"context_length": 3}, r"text\.context_length: 3 must be at least 4"),
        ("text", {"pad_id": 32_000}, "not in the vocabulary"),
        ("captioner", {"queries": 0}, r"captioner\.queries: 0 must be at least 1"),
        ("captioner", {"vocab_size": 100}, "one tokenizer serves both"),
    ],
)
def test_impossible_sizes_are_refused(part, change, message):
    mapping = to_mapping(SIZES["l14"])
    mapping[part] |= change
    with pytest.raises(ConfigError, match=message):
        from_mapping(ClipsConfig, mapping, "model")
