"""Scenes and images: reproducible, and every thing is visible."""

import hashlib
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clips_pipeline.data.scenes.backdrops import paint_backdrop
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.raster import FULL_COVERAGE, ellipse_counts, sprite_counts
from clips_pipeline.data.scenes.render import encode_png, render
from clips_pipeline.data.scenes.scene import (
    BACKGROUNDS,
    COLORS,
    HALF,
    SMALL,
    TEXTURES,
    Scene,
    Thing,
    draw_scene,
    relative_position,
)
from clips_pipeline.data.scenes.shapes import DRAWINGS, KINDS, Polygon

SCENES = [draw_scene(RandomStream("scenes", index)) for index in range(1_500)]


def test_draws_follow_the_published_splitmix64() -> None:
    draws = RandomStream("any")
    draws._state = 1234567  # the reference vector of the algorithm's C code
    assert [draws.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_choose_evenly_and_within_bounds() -> None:
    draws = RandomStream("even")
    counts = Counter(draws.between(3, 7) for _ in range(10_000))
    assert set(counts) == {3, 4, 5, 6, 7}
    assert all(1_800 < count < 2_200 for count in counts.values())
    weighted = Counter(draws.pick_weighted((("a", 1), ("b", 3))) for _ in range(4_000))
    assert 2_850 < weighted["b"] < 3_150
    assert sorted(draws.shuffled(range(20))) == list(range(20))
    assert not any(draws.chance(0.0) for _ in range(100))
    assert all(draws.chance(1.0) for _ in range(100))


def test_streams_of_other_names_differ() -> None:
    assert RandomStream(1, "train", 2).bits() == RandomStream(1, "train", 2).bits()
    assert (
        len({RandomStream(seed, split, i).bits() for seed in (1, 2) for split in ("a", "b") for i in range(50)}) == 200
    )


def test_scenes_hold_two_to_four_different_things_each_in_its_quarter() -> None:
    for scene in SCENES:
        assert len({thing.kind for thing in scene.things}) == len(scene.things)
        assert len({(thing.row, thing.column) for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            # In its center, so that no part of it is in another quarter.
            assert (thing.x % HALF, thing.y % HALF) == (HALF // 2, HALF // 2)
            assert thing.size < HALF
    counts = Counter(len(scene.things) for scene in SCENES)
    assert set(counts) == {2, 3, 4}
    assert all(count > 300 for count in counts.values())


def test_the_main_thing_is_the_largest_and_last() -> None:
    for scene in SCENES:
        assert all(thing.size < scene.main.size for thing in scene.others)
        assert scene.main is scene.things[-1]


def test_scenes_vary_in_everything() -> None:
    things = [thing for scene in SCENES for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.color for thing in things} == set(COLORS)
    assert {thing.texture for thing in things} == set(TEXTURES)
    assert {(thing.row, thing.column) for thing in things} == {
        (row, column) for row in ("top", "bottom") for column in ("left", "right")
    }
    assert {thing.size_name for thing in things} == {"small", "medium", "large"}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    labels = Counter(scene.main.kind for scene in SCENES)
    assert min(labels.values()) > len(SCENES) / len(KINDS) / 2


def test_relation_is_that_of_the_columns_or_else_of_the_rows() -> None:
    one = Thing("cat", "red", "plain", SMALL, 16, 16, False)
    assert relative_position(one, replace(one, x=48)) == "left"
    assert relative_position(one, replace(one, x=48, y=48)) == "left"
    assert relative_position(replace(one, x=48), one) == "right"
    assert relative_position(one, replace(one, y=48)) == "above"
    assert relative_position(replace(one, y=48), one) == "below"


def test_flying_things_are_more_often_above() -> None:
    above = [thing.row == "top" for scene in SCENES for thing in scene.things if thing.kind in ("bird", "kite", "star")]
    assert 0.6 < sum(above) / len(above) < 0.85


def test_every_thing_is_visible() -> None:
    """Changing any one thing changes the image by more than a few pixels."""
    for index, scene in enumerate(SCENES[:150]):
        whole = render(scene, 64, RandomStream("picture", index)).astype(int)
        for thing in scene.things:
            # Only the visible pixels of a thing change with its color.
            changed = replace(thing, color="red" if thing.color != "red" else "blue")
            other = Scene(scene.background, tuple(changed if t is thing else t for t in scene.things))
            difference = np.abs(whole - render(other, 64, RandomStream("picture", index))).max(axis=2) > 20
            assert difference.sum() > 0.1 * thing.size**2, (index, thing)


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_fill_their_square_and_stay_inside(kind: str) -> None:
    points = [p for part in DRAWINGS[kind] if isinstance(part, Polygon) for p in part.points]
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in points)
    counts = sprite_counts(kind, 32, "striped", flipped=False)
    assert counts.shape[:2] == (34, 34)
    assert (counts.sum(axis=2) == FULL_COVERAGE).all()
    painted = counts[:, :, 0] < FULL_COVERAGE
    assert 0.2 < painted.mean() < 0.95
    assert painted.any(axis=1).sum() > 20
    assert painted.any(axis=0).sum() > 20


def test_kinds_and_textures_look_different_even_when_small() -> None:
    sprites = [sprite_counts(kind, 12, "plain", False)[:, :, 0].astype(int) for kind in KINDS]
    for one in range(len(sprites)):
        for two in range(one):
            assert np.abs(sprites[one] - sprites[two]).sum() > 5 * FULL_COVERAGE, (KINDS[one], KINDS[two])
    pictures = {texture: sprite_counts("balloon", 12, texture, False).tobytes() for texture in TEXTURES}
    assert len(set(pictures.values())) == len(TEXTURES)


def test_a_circle_covers_its_area() -> None:
    counts = ellipse_counts(80, 80)
    assert counts.sum() / FULL_COVERAGE == pytest.approx(np.pi * 20 * 20, rel=0.005)
    assert (counts == counts[::-1]).all()
    assert (counts == counts.T).all()


@pytest.mark.parametrize("size", [16, 48, 64, 112, 224])
def test_images_of_any_size(size: int) -> None:
    for index, scene in enumerate(SCENES[:20]):
        picture = render(scene, size, RandomStream(index))
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 8


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_stay_in_range_and_vary(name: str) -> None:
    canvases = [paint_backdrop(name, 64, RandomStream(name, index)) for index in range(40)]
    assert all(canvas.min() >= 0 and canvas.max() <= 255 for canvas in canvases)
    assert len({canvas.tobytes() for canvas in canvases}) > 30


def test_png_is_lossless() -> None:
    picture = render(SCENES[0], 64, RandomStream(0))
    with Image.open(io.BytesIO(encode_png(picture))) as image:
        assert image.mode == "RGB"
        assert (np.asarray(image) == picture).all()


def test_pixels_do_not_depend_on_earlier_drawings() -> None:
    """Cached sprites must never be modified."""
    first = [hashlib.sha256(render(scene, 64, RandomStream(0)).tobytes()).digest() for scene in SCENES[:40]]
    again = [hashlib.sha256(render(scene, 64, RandomStream(0)).tobytes()).digest() for scene in reversed(SCENES[:40])]
    assert first == again[::-1]
