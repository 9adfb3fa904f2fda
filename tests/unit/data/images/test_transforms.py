"""Image transforms: sizes, randomness, and disabling of each augmentation."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.photos import photo
from PIL import Image
from tests.unit.data.samples import image_bytes

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.images.transforms import (
    _FILTERS,
    ImageConfig,
    Pixels,
    UndecodableImageError,
    eval_image,
    eval_pixels,
    normalize,
    train_pixels,
)

PLAIN = ImageConfig(size=16, crop_area=(1.0, 1.0), color_jitter=0.0, grayscale_probability=0.0, framing="squash")


def _train(image: bytes, config: ImageConfig, epoch: int = 0, key: str = "k", seed: int = 0) -> Pixels:
    return train_pixels(image, config, seed=seed, epoch=epoch, key=key)


def _eval(image: bytes, config: ImageConfig) -> Pixels:
    return eval_pixels(Image.open(io.BytesIO(image)), config)


@pytest.fixture(scope="module")
def noisy() -> bytes:
    """A colored JPEG of 200 x 120 with a gradient to the right and some noise."""
    grain = np.random.default_rng(0).integers(0, 40, (120, 200, 3))
    slope = np.linspace(0, 200, 200)[None, :, None] * np.array([1.0, 0.5, 0.2])
    buffer = io.BytesIO()
    Image.fromarray((slope + grain).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo_like() -> bytes:
    """A JPEG of 683 x 512 whose amplitudes fall with frequency as in photos."""
    return photo(1)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_any_mode_gives_three_channels(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    pixels = _train(image_bytes(1, mode=mode, kind=kind), ImageConfig(size=16))
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.uint8)


def test_train_pixels_depend_on_seed_epoch_and_key_only(noisy: bytes) -> None:
    config = ImageConfig(size=32, crop_area=(0.4, 1.0), color_jitter=0.4)
    first = _train(noisy, config)
    assert np.array_equal(_train(noisy, config), first)
    for other in (_train(noisy, config, epoch=1), _train(noisy, config, key="l"), _train(noisy, config, seed=1)):
        assert not np.array_equal(other, first)


def test_without_augmentation_pixels_are_those_of_evaluation(noisy: bytes) -> None:
    for framing in ("crop", "squash"):
        config = replace(PLAIN, framing=framing)  # type: ignore[arg-type]
        assert np.array_equal(_train(noisy, config, epoch=3), _eval(noisy, config))


def test_framing() -> None:
    # Left third red, middle green, right blue.
    image = Image.new("RGB", (90, 30), (255, 0, 0))
    image.paste((0, 255, 0), (30, 0, 60, 30))
    image.paste((0, 0, 255), (60, 0, 90, 30))
    cropped = eval_pixels(image, replace(PLAIN, framing="crop"))
    assert (cropped[1, :, 1:-1] == 255).all()
    assert not cropped[[0, 2], :, 1:-1].any()
    squashed = eval_pixels(image, PLAIN)
    assert squashed[:, 8, [1, 8, 14]].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_crops_keep_area_and_aspect(noisy: bytes) -> None:
    # The gradient gives the width of the crop, its noise-free mean gives the position.
    config = replace(PLAIN, crop_area=(0.25, 0.5), crop_aspect=(1.0, 1.0))
    widths = []
    for epoch in range(40):
        red = _train(noisy, config, epoch=epoch)[0].astype(float).mean(0)
        widths.append((red[-4:].mean() - red[:4].mean()) / 200 * 200 / (12 / 16))
    low, high = (0.25 * 120 * 200) ** 0.5, (0.5 * 120 * 200) ** 0.5
    assert low - 9 < min(widths) < max(widths) < high + 9
    assert max(widths) - min(widths) > 15


def test_each_color_change_can_be_disabled(noisy: bytes) -> None:
    plain = _train(noisy, PLAIN)
    gray = _train(noisy, replace(PLAIN, grayscale_probability=1.0))
    assert (gray[0] == gray[1]).all()
    assert (gray[1] == gray[2]).all()
    jittered = _train(noisy, replace(PLAIN, color_jitter=0.4, color_jitter_probability=1.0))
    assert not np.array_equal(jittered, plain)
    never = replace(PLAIN, color_jitter=0.4, color_jitter_probability=0.0)
    assert np.array_equal(_train(noisy, never), plain)


def test_probabilities_are_kept(noisy: bytes) -> None:
    config = replace(PLAIN, grayscale_probability=0.2, size=4)
    gray = [np.ptp(_train(noisy, config, key=str(n)).astype(int), axis=0).max() == 0 for n in range(300)]
    assert 35 <= sum(gray) <= 87


def test_strength_of_the_jitter_is_as_published() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (120, 120, 120)).save(buffer, "PNG")
    config = replace(PLAIN, size=4, color_jitter=0.4, color_jitter_probability=1.0)
    # On a uniform gray image only brightness has an effect: 1 +- 0.8 * 0.4.
    found = [int(_train(buffer.getvalue(), config, key=str(n))[0, 0, 0]) for n in range(200)]
    assert 80 <= min(found) < 86
    assert 154 < max(found) <= 159


def test_a_crop_is_cut_and_then_resized(noisy: bytes) -> None:
    # Large enough that no crop is decoded at reduced scale; the box is recovered from the ends of two gradients.
    slopes = np.zeros((120, 200, 3), np.uint8)
    slopes[..., 0], slopes[..., 1] = np.arange(200)[None, :], np.arange(120)[:, None]
    buffer = io.BytesIO()
    Image.fromarray(slopes).save(buffer, "PNG")
    for interpolation in ("bilinear", "bicubic"):
        config = replace(PLAIN, size=150, crop_area=(0.3, 0.9), interpolation=interpolation)  # type: ignore[arg-type]
        for epoch in range(5):
            found = _train(buffer.getvalue(), config, epoch=epoch)
            left, right, top, bottom = found[0].min(), found[0].max(), found[1].min(), found[1].max()
            part = Image.fromarray(slopes[top : bottom + 1, left : right + 1])
            wanted = np.asarray(part.resize((150, 150), _FILTERS[interpolation])).transpose(2, 0, 1)
            assert 0.3 * 0.95 < part.width * part.height / (200 * 120) < 0.9 * 1.05
            assert np.abs(found.astype(int) - wanted).max() <= 1


def test_reduced_decoding_changes_pixels_little(photo_like: bytes) -> None:
    with Image.open(io.BytesIO(photo_like)) as opened:
        assert opened.size == (683, 512)
    config = ImageConfig(size=64, crop_area=(0.8, 1.0), color_jitter=0.0, grayscale_probability=0.0)
    for epoch in range(12):
        for size in (24, 60, 112):
            whole, reduced = (
                _train(photo_like, replace(config, size=size, reduced_decoding=switch), epoch=epoch).astype(int)
                for switch in (False, True)
            )
            off = np.abs(whole - reduced)
            assert off.any()
            assert off.mean() < 2.0
            assert off.max() < 20


def test_damaged_images_raise_one_error(noisy: bytes) -> None:
    for damaged in (b"", b"no image", noisy[: len(noisy) // 2]):
        with pytest.raises(UndecodableImageError):
            _train(damaged, ImageConfig(size=16))
    with pytest.raises(UndecodableImageError), Image.open(io.BytesIO(noisy[: len(noisy) // 2])) as opened:
        eval_pixels(opened, PLAIN)


def test_normalize() -> None:
    images_BCHW = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalize(images_BCHW, (0.5, 0.25, 0.2), (0.5, 0.25, 0.1))
    torch.testing.assert_close(found.flatten(), torch.tensor([-1.0, 3.0, 0.0]))
    with pytest.raises(TypeError, match="normalized twice"):
        normalize(found, (0.5, 0.25, 0.2), (0.5, 0.25, 0.1))


def test_eval_image(noisy: bytes) -> None:
    config = ImageConfig(size=20)
    found_CHW = eval_image(Image.open(io.BytesIO(noisy)), config)
    wanted = normalize(torch.from_numpy(_eval(noisy, config))[None], config.mean, config.std)[0]
    assert found_CHW.dtype == torch.float32
    assert torch.equal(found_CHW, wanted)


def test_invalid_image_configurations_are_refused() -> None:
    config = ImageConfig(size=64, crop_area=(0.5, 0.75))
    assert from_mapping(ImageConfig, config.to_mapping(), "image") == config
    for wrong in (
        {"size": 0},
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.9, 0.5)},
        {"crop_aspect": (2.0, 1.0)},
        {"color_jitter": 1.5},
        {"grayscale_probability": -0.1},
        {"std": (0.1, 0.0, 0.1)},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            from_mapping(ImageConfig, {"size": 8} | wrong, "image")


def test_real_photos(fixtures_dir: Path) -> None:
    for file in sorted((fixtures_dir / "images").iterdir())[:5]:
        pixels = _train(file.read_bytes(), ImageConfig(size=64))
        assert pixels.std() > 10
