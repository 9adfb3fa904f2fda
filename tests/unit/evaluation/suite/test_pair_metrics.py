"""SugarCrepe++ and MMVP-VLM as their papers define them, against a naive reference."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests import suite_replicas as replicas

from clips_pipeline.evaluation.metrics.compositionality import measure_compositionality, triplet_hits
from clips_pipeline.evaluation.metrics.pair_files import MMVP_IMAGES, read_mmvp_vlm, read_sugarcrepe_pp
from clips_pipeline.evaluation.per_item.items import compositionality_items


def vectors(*angles):
    """Return unit vectors at these angles in degrees."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_triplets_by_hand():
    # Image at 0 degrees; right, also right, wrong.
    image, text = triplet_hits(
        vectors(0, 0, 0, 0), vectors(10, 10, 10, 30), vectors(20, 50, -20, -30), vectors(40, 40, 40, 30)
    )
    # First: both nearer than 40, and 10 apart, less than 30 and 20. Second: 50 is farther than 40. Third: the image is right, and
    # the right ones are 30 apart, as far as the first is from the wrong one: a tie is no hit. Fourth: ties.
    assert image.tolist() == [True, False, True, False]
    assert text.tolist() == [True, False, False, False]


class HashEmbedder:
    """Embeddings by content, in four dimensions."""

    def images(self, images):
        return np.stack([self._unit(np.asarray(image).sum(axis=(0, 1))) for image in images])

    def texts(self, texts):
        return np.stack([self._unit(list(text.encode())) for text in texts])

    def _unit(self, numbers):
        drawn = np.random.default_rng([int(number) for number in numbers]).normal(size=4)
        return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def test_sugarcrepe_pp_equals_a_naive_computation(tmp_path):
    mapping = replicas.sugarcrepe_pp(tmp_path, 11)
    entries = read_sugarcrepe_pp(tmp_path / "scpp" / "data", tmp_path / "val2017")
    assert mapping["path"] == str(tmp_path / "scpp" / "data")
    embedder = HashEmbedder()
    found = measure_compositionality(embedder, entries)
    means = []
    for subset, of_subset in entries.sugarcrepe_pp.items():
        image_hits = text_hits = 0
        for entry in of_subset:
            (image,) = embedder.images([Image.open(entry.image).convert("RGB")])
            p1, p2, n = embedder.texts([entry.right, entry.also_right, entry.wrong])
            image_hits += bool(image @ p1 > image @ n and image @ p2 > image @ n)
            text_hits += bool(p1 @ p2 > p1 @ n and p1 @ p2 > p2 @ n)
        assert found.metrics[f"sugarcrepe_pp/{subset}/image_to_text_accuracy"] == pytest.approx(image_hits / 11)
        assert found.metrics[f"sugarcrepe_pp/{subset}/text_to_text_accuracy"] == pytest.approx(text_hits / 11)
        means.append((image_hits / 11, text_hits / 11))
    assert 0 < np.mean(means) < 1
    for place, task in enumerate(("image_to_text", "text_to_text")):
        assert found.metrics[f"sugarcrepe_pp/mean/{task}_accuracy"] == pytest.approx(np.mean(means, axis=0)[place])
    assert found.metrics.keys() == found.chance.keys()
    # Entries on one image are one item of the bootstrap.
    items = compositionality_items(found.rows)["sugarcrepe_pp"]
    assert items.keys == tuple(f"{number:012d}.jpg" for number in range(6))
    assert items.values() == {name: pytest.approx(value) for name, value in found.metrics.items()}


def test_mmvp_vlm_equals_a_naive_computation(tmp_path):
    replicas.mmvp_vlm(tmp_path, ("Color", "Text", "State"), 15)
    entries = read_mmvp_vlm(tmp_path / "MMVP_VLM")
    embedder = HashEmbedder()
    found = measure_compositionality(embedder, entries)
    lines = (tmp_path / "MMVP_VLM" / "Questions.csv").read_text().splitlines()[1:]
    right = {"color": 0, "text": 0, "state": 0}
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        pictures, texts = [], []
        for line in (first, second):
            number, pattern, statement = line.split(",", 2)
            file = tmp_path / "MMVP_VLM" / MMVP_IMAGES / pattern / f"{number}.jpg"
            pictures.append(Image.open(file).convert("RGB"))
            texts.append("a photo of " + statement.strip('"'))
        images, statements = embedder.images(pictures), embedder.texts(texts)
        # Each statement chooses an image; the pair is right if both choose their own.
        right[pattern.lower()] += all(int(np.argmax(images @ statements[side])) == side for side in range(2))
    assert 0 < sum(right.values()) < 45
    for pattern, count in right.items():
        assert found.metrics[f"mmvp_vlm/{pattern}/accuracy"] == pytest.approx(count / 15)
    assert found.metrics["mmvp_vlm/mean/accuracy"] == pytest.approx(sum(right.values()) / 45)
    assert found.metrics.keys() == found.chance.keys()
    assert len(compositionality_items(found.rows)["mmvp_vlm"].keys) == 45


def test_another_image_or_text_is_another_set(tmp_path):
    replicas.mmvp_vlm(tmp_path)
    entries = read_mmvp_vlm(tmp_path / "MMVP_VLM")

    def version(found):
        return measure_compositionality(HashEmbedder(), found).rows[0]["set_version"]

    first = version(entries)
    changed = entries.mmvp_vlm[0]._replace(second_text="a photo of nothing")
    assert version(replace(entries, mmvp_vlm=[changed, *entries.mmvp_vlm[1:]])) != first
    replicas.write_picture(entries.mmvp_vlm[0].first, 99)
    assert version(entries) != first
