"""A folder of images with a JSON, CSV or Parquet file of captions."""

import csv
import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.samples import image_bytes

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.prepare.run import is_current, prepare
from clips_pipeline.data.shards import records
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Caption, Record, Skip
from clips_pipeline.data.shards.splits import Classes, Split
from clips_pipeline.data.sources.captions_file import CaptionFields, join_sentences, read_captions
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource, image_key


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "sub/c.v2.png")):
        (folder / name).write_bytes(image_bytes(number))
    (folder / "d.jpeg").write_bytes(image_bytes(3, kind="JPEG"))
    return folder


def _source(images: Path, entries: Any, **changes: Any) -> FolderSource:
    file = images.parent / "captions.json"
    file.write_text(json.dumps(entries))
    return FolderSource(FolderConfig(str(images), str(file), evaluate_on="train", **changes))


def _csv(images: Path, text: str, **changes: Any) -> FolderSource:
    file = images.parent / "captions.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return FolderSource(FolderConfig(str(images), str(file), evaluate_on="train", **changes))


def _items(source: FolderSource, split: Split = "train") -> list[Record | Skip]:
    return [item for task in source.tasks(split) for item in task.records()]


def _record(source: FolderSource) -> Record:
    (item,) = _items(source)
    assert isinstance(item, Record)
    return item


def test_first_caption_is_the_web_caption_and_the_others_are_the_long_one(images: Path) -> None:
    found = _record(_source(images, [{"image": "a.png", "captions": ["A dog.", " two\n dogs", "Three!", ""]}]))
    assert found.web_caption == "A dog."
    assert found.synthetic_caption == "two dogs. Three!"
    assert found.captions == ("A dog.", " two\n dogs", "Three!", "")
    assert (found.key, found.extension, found.image) == ("a", "png", image_bytes(0))


def test_a_long_caption_and_a_web_caption_where_given(images: Path) -> None:
    entry = {
        "image": "d.jpeg",
        "captions": ["A.", "B."],
        "caption": "web",
        "long_caption": "Long one. Of two.",
        "label": 3,
    }
    found = _record(_source(images, [entry]))
    assert (found.web_caption, found.synthetic_caption, found.label) == ("web", "Long one. Of two.", 3)
    assert (found.captions, found.extension) == (("A.", "B."), "jpg")


def test_web_caption_alone_leaves_all_others_for_the_long_one(images: Path) -> None:
    found = _record(_source(images, [{"image": "a.png", "caption": "B.", "captions": ["A.", "B.", "C."]}]))
    assert (found.web_caption, found.synthetic_caption) == ("B.", "A. C.")


def test_repeated_rows_of_a_csv_are_several_captions(images: Path) -> None:
    text = 'image,caption,long_caption\na.png,"one, two",\nb.png,b,Long b.\na.png,second,\na.png,third,\n'
    first, second = _items(_csv(images, text))
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.web_caption, first.synthetic_caption) == ("one, two", "second. third.")
    assert first.captions == ("one, two", "second", "third")
    assert (second.web_caption, second.synthetic_caption, second.captions) == ("b", "Long b.", ("b",))


def test_parquet_is_read_as_json_is(images: Path) -> None:
    rows = {
        "image": ["a.png", "b.png", "d.jpeg"],
        "caption": ["web", None, "other"],
        "long_caption": ["Long. Longer.", "Long.", None],
        "captions": [["one", "two"], None, ["Three.", "Four."]],
        "label": [3, None, -1],
        "score": [0.5, None, 1.0],
    }
    file = images.parent / "captions.parquet"
    pq.write_table(pa.table(rows), file)
    found = _items(FolderSource(FolderConfig(str(images), str(file), evaluate_on="train")))
    entries = [{k: v[i] for k, v in rows.items() if v[i] is not None} for i in range(3)]
    assert found == _items(_source(images, entries))
    first, second, third = found
    assert isinstance(first, Record)
    assert (first.web_caption, first.synthetic_caption, first.label, first.score) == ("web", "Long. Longer.", 3, 0.5)
    assert isinstance(second, Record)
    assert (second.web_caption, second.label, second.score) == ("", None, None)
    assert isinstance(third, Skip)


def test_scores(images: Path) -> None:
    found = _items(_csv(images, "image,caption,score\na.png,x,0.25\nb.png,y,\nd.jpeg,z,high\n"))
    assert [item.score for item in found[:2] if isinstance(item, Record)] == [0.25, None]
    assert isinstance(found[2], Skip)
    assert "'score' is 'high'; a number is needed" in found[2].detail
    entries = [{"image": "a.png", "captions": ["x"], "score": True}, {"image": "b.png", "captions": ["x"]}]
    assert isinstance(_items(_source(images, entries))[0], Skip)


def test_other_names_of_fields(images: Path) -> None:
    fields = CaptionFields(image="file", captions="texts", long_caption="dense")
    entry = {"file": "a.png", "texts": ["A."], "dense": "Long."}
    assert _record(_source(images, [entry], fields=fields)).synthetic_caption == "Long."


def test_bad_entry_affects_only_itself(images: Path, tmp_path: Path) -> None:
    good = {"image": "a.png", "captions": ["A.", "B."]}
    entries = [
        good,
        {"image": "nowhere.png", "captions": ["A.", "B."]},
        {"image": "b.png", "captions": ["only one"]},
        {"image": "sub/c.v2.png", "captions": []},
        {"image": "d.jpeg", "captions": "no list"},
        {"captions": ["A."]},
        "no entry",
        good,
    ]
    index = prepare(_source(images, entries), tmp_path / "shards", max_skipped_fraction=0.9)
    assert index.skips["train"] == {
        records.BAD_RECORD: 3,
        records.DUPLICATE_KEY: 1,
        records.EMPTY_SYNTHETIC_CAPTION: 1,
        records.EMPTY_WEB_CAPTION: 1,
        records.MISSING_IMAGE: 1,
    }
    assert [sample.key for sample in eval_samples(tmp_path / "shards", "train")] == ["a"]


@pytest.mark.parametrize(
    "image", ["../secret.png", "ABSOLUTE", "link.png", "linked/secret.png", "fifo.png", "sub", "nul\0.png"]
)
def test_only_regular_files_inside_the_folder_are_read(images: Path, image: str) -> None:
    """A captions file is data: it must not lead to other files of the machine, or block for ever."""
    secret = images.parent / "secret.png"
    secret.write_bytes(image_bytes(9))
    (images / "link.png").symlink_to(secret)
    (images / "linked").symlink_to(images.parent)
    os.mkfifo(images / "fifo.png")
    (images / "inside.png").symlink_to(images / "a.png")
    image = image.replace("ABSOLUTE", str(secret))
    entries = [{"image": name, "captions": ["a", "b"]} for name in ("a.png", "inside.png", image)]
    source = _source(images, entries)
    assert source.fingerprint() == _source(images, entries).fingerprint()
    first, inside, found = _items(source)
    assert isinstance(first, Record)
    assert isinstance(inside, Record)
    assert isinstance(found, Skip)
    assert found.reason == records.MISSING_IMAGE


BIG = "9" * 400
ODD_JSON = {
    "a score of 400 digits": f'"score": {BIG}',
    "a label of 400 digits": f'"label": {BIG}',
    "a label of 5,000 digits": f'"label": {"9" * 5000}',
    "a negative label": '"label": -1',
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_a_number_that_cannot_be_used_affects_only_its_entry(images: Path, name: str) -> None:
    file = images.parent / "captions.json"
    file.write_text(
        f'[{{"image": "a.png", "captions": ["a"], {ODD_JSON[name]}}}, {{"image": "b.png", "captions": ["b"]}}]'
    )
    bad, good = _items(FolderSource(FolderConfig(str(images), str(file), evaluate_on="train")))
    assert isinstance(bad, Skip)
    assert bad.reason == records.BAD_RECORD
    assert len(bad.detail) < 120
    assert isinstance(good, Record)


def test_a_long_cell_affects_only_its_row(images: Path) -> None:
    long = "x" * 200_000
    first, second = _items(_csv(images, f"image,caption\na.png,{long}\nb.png,b\n"))
    assert isinstance(first, Record)
    assert first.web_caption == long
    assert isinstance(second, Record)
    assert csv.field_size_limit() == 131_072


def test_deep_nesting_is_one_error(images: Path) -> None:
    file = images.parent / "captions.json"
    file.write_text('[{"image": ' + "[" * 100_000)
    with pytest.raises(ConfigError, match="is not valid JSON"):
        FolderSource(FolderConfig(str(images), str(file), evaluate_on="train"))


def test_parquet_that_unpacks_to_far_more_than_its_size_is_refused(images: Path) -> None:
    file = images.parent / "captions.parquet"
    rows = pa.array(np.zeros(3_000_000, np.int32))
    same = pa.DictionaryArray.from_arrays(rows, pa.array(["a.png"]))
    pq.write_table(pa.table({"image": same, "caption": same}), file)
    with pytest.raises(ConfigError, match=r"captions\.parquet has 3000000 rows in \d+ bytes"):
        read_captions(file, CaptionFields())
    texts = [pa.DictionaryArray.from_arrays(rows[:400], pa.array(["x" * 1_000_000])), pa.array(["x" * 1_000_000] * 100)]
    nested = pa.ListArray.from_arrays(pa.array(range(401), pa.int32()), texts[0])
    for text in (*texts, nested):
        names = [f"{number}.png" for number in range(len(text))]
        pq.write_table(pa.table({"image": names, "caption": text}), file, compression="zstd")
        with pytest.raises(ConfigError, match=r"captions\.parquet unpacks to more than 100 times its size"):
            read_captions(file, CaptionFields())


def test_damaged_parquet_is_one_error(images: Path) -> None:
    file = images.parent / "captions.parquet"
    pq.write_table(pa.table({"image": ["a.png"] * 99, "caption": [f"web {n}" for n in range(99)]}), file)
    whole, draw, refused = file.read_bytes(), random.Random(0), 0  # noqa: S311
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        file.write_bytes(content)
        try:
            FolderSource(FolderConfig(str(images), str(file), evaluate_on="train"))
        except ConfigError:
            refused += 1
    assert refused > 50


def test_bytes_that_are_not_utf8_affect_only_their_row(images: Path, tmp_path: Path) -> None:
    source = _csv(images, "image,caption,long_caption\na.png,caf\udce9,Long.\nb.png,café,Long.\n\udcff.png,x,Long.\n")
    index = prepare(source, tmp_path / "shards", max_skipped_fraction=0.7)
    assert index.skips["train"] == {records.MISSING_IMAGE: 1, records.NOT_UTF8: 1}
    assert [sample.web_caption for sample in eval_samples(tmp_path / "shards", "train")] == ["café"]


def test_every_split_holds_all_when_evaluated_on_train(images: Path) -> None:
    source = _source(images, [{"image": name, "captions": ["A.", "B."]} for name in ("a.png", "b.png")])
    assert source.splits == ("train", "validation", "test")
    assert _items(source) == _items(source, "validation") == _items(source, "test")
    assert len(_items(source)) == 2


def _held_out(tmp_path: Path, names: list[str], **changes: Any) -> dict[str, set[str]]:
    folder = tmp_path / "many"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    (tmp_path / "many.csv").write_text("image,caption\n" + "".join(f"{name},x\n" for name in names))
    source = FolderSource(FolderConfig(str(folder), str(tmp_path / "many.csv"), **changes))
    return {
        split: {item.key for task in source.tasks(split) for item in task.records() if isinstance(item, Record)}
        for split in source.splits
    }


def test_fractions_by_a_stable_hash_of_the_key(tmp_path: Path) -> None:
    names = [f"{number:04d}.jpg" for number in range(400)]
    parts = _held_out(tmp_path, names, validation_fraction=0.2, test_fraction=0.3)
    assert 90 <= len(parts["test"]) <= 150
    assert 55 <= len(parts["validation"]) <= 105
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 400
    # With more images in another order, the first ones keep their splits.
    more = _held_out(
        tmp_path, [f"new{n}.jpg" for n in range(50)] + names[::-1], validation_fraction=0.2, test_fraction=0.3
    )
    assert all(parts[split] <= more[split] for split in parts)
    assert _held_out(tmp_path, names, validation_fraction=0.2, test_fraction=0.3, split_seed=1) != parts
    assert list(_held_out(tmp_path, names, validation_fraction=0.0, test_fraction=0.0)) == ["train"]


def test_fingerprint_follows_content_and_not_place_or_time(images: Path, tmp_path: Path) -> None:
    entries = [{"image": name, "captions": ["A.", "B."]} for name in ("a.png", "b.png")]
    source = _source(images, entries)
    prepare(source, tmp_path / "shards")
    (images / "a.png").touch()
    moved = images.rename(tmp_path / "moved")
    same = FolderSource(replace(source.config, images=str(moved)))
    assert is_current(same, tmp_path / "shards")
    (moved / "a.png").write_bytes(image_bytes(77))
    assert not is_current(same, tmp_path / "shards")
    (moved / "a.png").write_bytes(image_bytes(0))
    assert is_current(same, tmp_path / "shards")
    assert not is_current(FolderSource(replace(same.config, split_seed=5)), tmp_path / "shards")
    Path(source.config.captions).write_text(json.dumps([*entries, {"image": "d.jpeg", "captions": ["A.", "B."]}]))
    assert not is_current(FolderSource(same.config), tmp_path / "shards")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.json", None, r"missing\.json does not exist"),
        ("captions.txt", "x", r"neither in \.json nor in \.csv"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"images": []}', "holds a dict"),
        ("a.json", "[]", "has no entry"),
        ("a.json", '[{"file": "a.png", "captions": []}]', r"fields\.image.*no field 'image'.*captions, file"),
        ("a.json", '[{"image": "a.png", "texts": []}]', r"fields\.captions.*no field 'caption'"),
        ("a.parquet", "PAR1", "not valid Parquet"),
        ("a.csv", "", "has no field 'image'"),
        ("a.csv", "image,text\na.png,x\n", r"fields\.caption.*no field 'caption'"),
        ("a.csv", "image,caption\n", "has no entry"),
        ("a.json", '[{"image": "z.png", "captions": ["A."]}]', r"none of the 1 images.*'z\.png'"),
    ],
)
def test_error_names_the_problem(images: Path, name: str, text: str | None, message: str) -> None:
    file = images.parent / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        FolderSource(FolderConfig(str(images), str(file)))


def test_missing_folder_and_impossible_fractions(images: Path) -> None:
    (images.parent / "a.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"source\.folder\.images: .*nowhere"):
        FolderSource(FolderConfig(str(images / "nowhere"), str(images.parent / "a.json")))
    mapping = {"images": "i", "captions": "c", "validation_fraction": 0.5, "test_fraction": 0.5}
    with pytest.raises(ConfigError, match=r"folder\.validation_fraction: with test_fraction it leaves nothing"):
        from_mapping(FolderConfig, mapping, "folder")
    with pytest.raises(ConfigError, match=r"folder\.fields\.imag: unknown key; did you mean 'image'"):
        from_mapping(FolderConfig, {"images": "i", "captions": "c", "fields": {"imag": "x"}}, "folder")


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("a.png", "a"),
        ("./x/b.v2.jpg", "x/b_v2"),
        ("../up.png", "__/up"),
        ("/abs/c.png", "abs/c"),
        ("noending", "noending"),
    ],
)
def test_keys(image: str, key: str) -> None:
    assert image_key(image) == key


def test_joined_sentences_can_be_split_again() -> None:
    assert join_sentences(["One", "two. ", "", "three?", "a\nb"]) == "One. two. three? a b."


def test_the_photos(fixtures_dir: Path, tmp_path: Path) -> None:
    config = FolderConfig(str(fixtures_dir / "images"), str(fixtures_dir / "captions.json"), evaluate_on="train")
    index = prepare(FolderSource(config), tmp_path / "shards", max_skipped_fraction=0.0)
    assert {split: index.split_samples(split) for split in index.splits} == {"train": 29, "validation": 29, "test": 29}
    found = list(eval_samples(tmp_path / "shards", "test"))
    assert all(len(sample.captions) == 5 and sample.web_caption == sample.captions[0] for sample in found)
    assert all(len(re.findall("[.!]", sample.synthetic_caption)) >= 4 for sample in found)


def test_class_names_come_from_a_file_of_their_own(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"names": ["cat", "dog"], "templates": ["a {}."]}))
    entries = [
        {"image": name, "captions": ["A.", "B."], "label": label} for name, label in (("a.png", 1), ("b.png", 2))
    ]
    source = _source(images, [*entries, {"image": "d.jpeg", "captions": ["A.", "B."]}], classes=str(file))
    good, bad, unlabelled = _items(source)
    assert source.classes() == Classes(("cat", "dog"), ("a {}.",))
    assert isinstance(good, Record)
    assert good.label == 1
    assert isinstance(bad, Skip)
    assert (bad.reason, bad.detail) == (records.BAD_RECORD, "label 2, but source.folder.classes names 2, from 0")
    assert isinstance(unlabelled, Record)
    assert unlabelled.label is None
    before = source.fingerprint()
    other = FolderSource(replace(source.config, classes=str(file.rename(tmp_path / "moved.json"))))
    assert other.fingerprint() == before
    (tmp_path / "moved.json").write_text(json.dumps({"names": ["cat", "bird"], "templates": ["a {}."]}))
    assert FolderSource(other.config).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"source\.folder\.classes: .*classes\.json cannot be read"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"names": ["cat"]}', r"classes\.json\.templates: missing"),
        ('{"names": ["cat"], "templates": ["a"]}', "has no {} for the class name"),
    ],
)
def test_a_file_of_classes_that_cannot_be_used_is_refused(
    images: Path, tmp_path: Path, text: str, message: str
) -> None:
    if text is not None:
        (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        _source(images, [{"image": "a.png", "captions": ["A.", "B."]}], classes=str(tmp_path / "classes.json"))


SEVERAL = {
    "an object": {"llava": "Long one.", "blip": ["Short.", "Other."]},
    "a list": [{"captioner": "llava", "text": "Long one."}, {"captioner": "blip", "text": "Short."}],
}


def test_several_captions_of_an_image(images: Path) -> None:
    llava, blip = Caption("Long one.", "llava"), Caption("Short.", "blip")
    entries = [
        {"image": "a.png", "caption": ["web", " ", "alt"], "long_caption": SEVERAL["an object"]},
        {"image": "b.png", "caption": "web", "long_caption": SEVERAL["a list"]},
        {"image": "d.jpeg", "captions": ["A.", "B."], "long_caption": ["One.", "Two."]},
    ]
    first, second, third = (item for item in _items(_source(images, entries)) if isinstance(item, Record))
    assert first.web_captions == ("web", "alt")
    assert first.synthetic_captions == (llava, blip, Caption("Other.", "blip"))
    assert second.synthetic_captions == (llava, blip)
    assert third.synthetic_captions == (Caption("One."), Caption("Two."))
    assert (third.web_captions, third.captions) == (("A.",), ("A.", "B."))


@pytest.mark.parametrize("names", [("long", "short"), {"long": "long", "short": "short"}])
def test_one_column_for_each_captioner(images: Path, names: Any) -> None:
    fields = CaptionFields(long_caption=names)
    text = "image,caption,long,short\na.png,one,Long.,Short.\nb.png,two,,Only.\n"
    wanted = [(Caption("Long.", "long"), Caption("Short.", "short")), (Caption("Only.", "short"),)]
    found = [_csv(images, text, fields=fields)]
    rows = {
        "image": ["a.png", "b.png"],
        "caption": ["one", "two"],
        "long": ["Long.", None],
        "short": ["Short.", "Only."],
    }
    file = images.parent / "captions.parquet"
    pq.write_table(pa.table(rows), file)
    found.append(FolderSource(FolderConfig(str(images), str(file), fields=fields, evaluate_on="train")))
    for source in found:
        assert source.captioners == ("long", "short")
        assert [item.synthetic_captions for item in _items(source) if isinstance(item, Record)] == wanted
    with pytest.raises(
        ConfigError, match=r"fields\.long_caption: .* has no field 'none' \(it has: caption, image, long, short\)"
    ):
        _csv(images, text, fields=CaptionFields(long_caption=("long", "none")))


def test_a_struct_of_parquet_is_an_object(images: Path) -> None:
    rows = {
        "image": ["a.png", "b.png"],
        "caption": ["one", "two"],
        "long_caption": [{"x": "L.", "y": None}, {"x": None, "y": "M."}],
    }
    file = images.parent / "captions.parquet"
    pq.write_table(pa.table(rows), file)
    found = _items(FolderSource(FolderConfig(str(images), str(file), evaluate_on="train")))
    assert [item.synthetic_captions for item in found if isinstance(item, Record)] == [
        (Caption("L.", "x"),),
        (Caption("M.", "y"),),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"captions": "A dog."}, "'captions' is not a list of texts; write one text as a list of one"),
        ({"captions": list("A dog.")}, r"'captions' is a list of the characters of one text \('A dog\.'"),
        ({"caption": list("A dog.")}, "'caption' is a list of the characters"),
        ({"caption": "web", "long_caption": list("A dog.")}, "'long_caption' is a list of the characters"),
        ({"caption": "web", "long_caption": {"llava": 3}}, "'long_caption' is not text: it holds a int"),
        (
            {"caption": "web", "long_caption": {"a\tb": "x"}},
            "'long_caption' has a captioner that is not a printable name",
        ),
    ],
)
def test_types_that_are_no_captions_are_named(images: Path, entry: dict[str, Any], message: str) -> None:
    entries = [{"image": "b.png", "captions": ["A.", "B."], "caption": "w"}, {"image": "a.png", **entry}]
    found = _items(_source(images, entries))
    assert isinstance(found[1], Skip)
    assert found[1].reason == "bad_record"
    assert re.search(message, found[1].detail)


def test_the_order_of_captioners_counts(images: Path) -> None:
    """The first caption is the one that evaluation takes."""
    text = "image,caption,long,short\na.png,one,Long.,Short.\n"
    orders = ({"l": "long", "s": "short"}, {"s": "short", "l": "long"})
    found = [_csv(images, text, fields=CaptionFields(long_caption=order)) for order in orders]
    assert found[0].fingerprint() != found[1].fingerprint()
