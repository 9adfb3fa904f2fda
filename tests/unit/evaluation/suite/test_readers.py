"""Every set in exactly its published form: content, counts, absent sets, and files that are damaged or hostile."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from tests import suite_replicas as replicas

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.suite import captioned
from clips_pipeline.evaluation.suite.class_folders import wordnet_ids
from clips_pipeline.evaluation.suite.config import SetConfig, SuiteConfig
from clips_pipeline.evaluation.suite.image_set import CountedRecords
from clips_pipeline.evaluation.suite.sets import AbsentSet, OpenSet, open_set


def opened(mapping, name="replica", **counts):
    found = open_set(name, from_mapping(SetConfig, {**mapping, **counts}, "set"), Storage())
    assert isinstance(found, OpenSet)
    return found


def records(found):
    return [one for one in found.images.records() if isinstance(one, Record)]


CAPTIONED = {
    "urban1k": (replicas.urban1k, ["1", "2", "3", "4", "5", "6"], lambda n: (replicas.caption(n + 1),)),
    "docci": (replicas.docci, [f"test_{n:05d}" for n in range(6)], lambda n: (replicas.caption(n, " test"),)),
    "iiw": (replicas.iiw, [f"aar_test_{4600 + n:05d}" for n in range(6)], lambda n: (replicas.caption(n),)),
    "sharegpt4v": (
        replicas.sharegpt4v,
        [f"sam/images/sa_{n}" for n in range(6)],
        lambda n: (replicas.caption(n, " The rest is dark."),),
    ),
    "dci": (
        replicas.dci,
        [f"sa_{n}" for n in range(6)],
        lambda n: (
            f"{replicas.caption(n)}\nIts floor is {replicas.WORDS[n]}.".removesuffix(
                "" if n else "\nIts floor is red."
            ),
        ),
    ),
    "caption_list": (
        replicas.caption_list,
        [f"images/{n}" for n in range(6)],
        lambda n: (replicas.caption(n), *([replicas.caption(n, " Again.")] if n % 2 else [])),
    ),
    "coco": (
        replicas.karpathy,
        [f"val2014/COCO_val2014_{n:012d}_test" for n in range(6)],
        lambda n: tuple(replicas.caption(n, f" Sentence {one}.") for one in range(5 + (n == 0))),
    ),
    "flickr30k": (
        lambda folder: replicas.karpathy(folder, dataset="flickr30k"),
        [f"{1000 + n}_test" for n in range(6)],
        lambda n: tuple(replicas.caption(n, f" Sentence {one}.") for one in range(5)),
    ),
}


@pytest.mark.parametrize("name", CAPTIONED)
def test_captions_and_images_of_the_published_files(tmp_path, name):
    write, keys, captions = CAPTIONED[name]
    mapping = write(tmp_path)
    expected = [captions(number) for number in range(6)]
    total = sum(map(len, expected))
    found = opened(mapping, images=6, captions=total)
    read = records(found)
    assert [one.key for one in read] == keys
    assert [one.captions for one in read] == expected
    offset = 1 if name == "urban1k" else 0
    assert [one.image for one in read] == [replicas.picture(number + offset) for number in range(6)]
    # Another number than published is an error that names both, before any image is read.
    with pytest.raises(
        ConfigError, match=r"suite\.sets\.replica: images: 6 found, 1,000 published.*correct the number"
    ):
        opened(mapping, images=1000, captions=total)
    with pytest.raises(ConfigError, match=rf"captions: {total} found, 25,010 published"):
        opened(mapping, captions=25010)


def test_sharegpt4v_reads_the_first_entries_only(tmp_path, monkeypatch):
    mapping = replicas.sharegpt4v(tmp_path)
    file = Path(mapping["path"])
    # Behind the entries that count the file may be anything: it is not read.
    file.write_text(file.read_text()[:-1] + ", {not JSON")
    monkeypatch.setattr(captioned, "SHAREGPT4V_ENTRIES", 6)
    assert len(records(opened(mapping, images=6))) == 6
    monkeypatch.setattr(captioned, "SHAREGPT4V_ENTRIES", 7)
    with pytest.raises(ConfigError, match="entry 7: the file ends inside its JSON list"):
        opened(mapping)


def test_urban1k_takes_the_first_line(tmp_path):
    mapping = replicas.urban1k(tmp_path)
    (tmp_path / "Urban1k" / "caption" / "3.txt").write_text("The first line.\nA second one.\n")
    assert records(opened(mapping))[2].captions == ("The first line.",)


@pytest.mark.parametrize(("split", "keys"), [("test", ["sa_5"]), ("valid", ["sa_4"])])
def test_dci_has_splits(tmp_path, split, keys):
    assert [one.key for one in records(opened({**replicas.dci(tmp_path), "split": split}))] == keys


def test_clip_benchmark_counts_local_shards_before_they_are_read(tmp_path):
    mapping = replicas.clip_benchmark(tmp_path / "wds_flickr30k")
    found = opened(mapping, images=6, captions=12)
    counted = CountedRecords(found.images)
    assert [one.key for one in counted.read()] == [f"{n % 2}/s{n:07d}" for n in (0, 2, 4, 1, 3, 5)]
    assert (counted.images, counted.captions) == (6, 12)
    with pytest.raises(ConfigError, match="images: 6 found, 1,000 published"):
        opened(mapping, images=1000)
    labeled = opened(replicas.clip_benchmark(tmp_path / "wds_vtab-x", [0, 1, 1, 0, 1, 0], ("cat", "dog")))
    assert labeled.images.classes.names == ("cat", "dog")
    assert labeled.images.classes.templates == ("a photo of a {}.", "a drawing of a {}.")
    assert [one.label for one in records(labeled)] == [0, 1, 1, 1, 0, 0]


def test_class_folders_have_the_labels_of_their_set(tmp_path):
    ids = wordnet_ids("imagenet")
    assert (len(ids), len(wordnet_ids("imagenet_a")), len(wordnet_ids("imagenet_r"))) == (1000, 200, 200)
    # ImageNet and -Sketch: WordNet ids; the label is the place among all 1,000.
    found = opened(replicas.class_folders(tmp_path / "val", {ids[0]: 2, ids[999]: 1}), images=3)
    assert [one.label for one in records(found)] == [0, 0, 999]
    assert found.images.classes.names[0] == "tench"
    assert len(found.images.classes.names) == 1000
    assert len(found.images.classes.templates) == 80
    # -V2: numbers.
    found = opened(replicas.class_folders(tmp_path / "v2", {"0": 1, "10": 1, "999": 2}, ".jpeg"))
    assert [one.label for one in records(found)] == [0, 10, 999, 999]
    # -A and -R: 200 classes, labels and names of their own.
    for classes in ("imagenet_a", "imagenet_r"):
        own = wordnet_ids(classes)
        found = opened(
            {**replicas.class_folders(tmp_path / classes, {own[3]: 1, own[199]: 1}, ".jpg"), "classes": classes}
        )
        assert [one.label for one in records(found)] == [3, 199]
        assert len(found.images.classes.names) == 200
        full = opened(replicas.class_folders(tmp_path / f"{classes}-full", {own[3]: 1})).images.classes.names
        assert found.images.classes.names[3] == full[ids.index(own[3])]
        outside = next(one for one in ids if one not in own)
        replicas.class_folders(tmp_path / classes, {outside: 1})
        with pytest.raises(ConfigError, match=f"{outside} is no class of {classes}"):
            opened({"kind": "class_folders", "group": "zero-shot", "path": str(tmp_path / classes), "classes": classes})


def test_imagenet_as_hugging_face_has_it(tmp_path):
    for number, wordnet_id in enumerate(wordnet_ids("imagenet")[5:8]):
        replicas.write_picture(tmp_path / "val" / f"ILSVRC2012_val_0000{number}_{wordnet_id}.JPEG", number)
    mapping = {"kind": "class_folders", "group": "zero-shot", "path": str(tmp_path / "val")}
    assert [one.label for one in records(opened(mapping))] == [5, 6, 7]
    replicas.write_picture(tmp_path / "val" / "other.jpg", 9)
    with pytest.raises(ConfigError, match=r"other\.jpg: has no class folder"):
        opened(mapping)


def test_objectnet_has_the_classes_that_imagenet_has_too(tmp_path):
    found = opened(replicas.objectnet(tmp_path), images=6)
    assert found.images.classes.names == ("alarm clock", "backpack", "bottle cap")
    assert [one.label for one in records(found)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("write", "entries", "images"),
    [
        (replicas.sugarcrepe, 42, 6),
        (replicas.sugarcrepe_pp, 30, 6),
        (replicas.winoground, 6, 12),
        (replicas.mmvp_vlm, 6, 12),
    ],
)
def test_compositionality_sets_and_their_counts(tmp_path, write, entries, images):
    mapping = write(tmp_path)
    found = opened(mapping, mapping["kind"], entries=entries, images=images if "images_path" not in mapping else None)
    assert (found.entries.count, len(found.entries.images)) == (entries, images)
    with pytest.raises(
        ConfigError, match=rf"suite\.sets\.{mapping['kind']}: entries: {entries} found, 7,512 published"
    ):
        opened(mapping, mapping["kind"], entries=7512)


def test_mmvp_vlm_pairs(tmp_path):
    pairs = opened(replicas.mmvp_vlm(tmp_path), "mmvp_vlm").entries.mmvp_vlm
    assert pairs[4].name == "9-10"
    assert pairs[4].pattern == "camera_perspective"
    assert pairs[4].first.parts[-3:] == ("MLLM_VLM Images", "Camera Perspective", "9.jpg")
    assert (pairs[4].first_text, pairs[4].second_text) == (
        "a photo of a yellow cube, seen from above",
        "a photo of a white cube",
    )


def test_absent_sets_are_no_error(tmp_path):
    base = {"kind": "iiw", "group": "long captions"}

    def absent(mapping):
        found = open_set("iiw", from_mapping(SetConfig, mapping, "set"), Storage())
        assert isinstance(found, AbsentSet)
        return found.reason

    assert absent(base) == "no path"
    assert absent({**base, "path": str(tmp_path / "x"), "images_path": str(tmp_path)}).endswith("x does not exist")
    assert absent({**base, "path": str(tmp_path), "images_path": str(tmp_path / "y")}).endswith("y does not exist")


def damage(file, content):
    def change(folder):
        path = next(folder.rglob(file))
        if content is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def replace_in(file, old, new):
    def change(folder):
        path = next(folder.rglob(file))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


OUTSIDE = "../../etc/passwd"
DAMAGED = {
    "no JSON": (replicas.karpathy, damage("dataset_coco.json", "{"), r"dataset_coco\.json: not valid JSON"),
    "deep JSON": (replicas.karpathy, damage("dataset_coco.json", "[" * 10**5), "more than 64 levels"),
    "huge number": (replicas.karpathy, damage("dataset_coco.json", "9" * 5000), "not valid JSON"),
    "a list": (replicas.karpathy, damage("dataset_coco.json", "[]"), "expected a JSON object, found list"),
    "no images": (replicas.karpathy, damage("dataset_coco.json", '{"images": 5}'), "has no list `images`"),
    "an image that is text": (
        replicas.karpathy,
        damage("dataset_coco.json", '{"images": ["x"]}'),
        "image 1: split is missing",
    ),
    "no sentences": (
        replicas.karpathy,
        damage("dataset_coco.json", '{"images": [{"split": "test", "filename": "x.jpg", "sentences": {}}]}'),
        "image 1: has no list `sentences`",
    ),
    "a sentence that is a number": (
        replicas.karpathy,
        damage("dataset_coco.json", '{"images": [{"split": "test", "filename": "x.jpg", "sentences": [{"raw": 7}]}]}'),
        "image 1: raw is int, expected text",
    ),
    "a split without images": (
        replicas.karpathy,
        replace_in("dataset_coco.json", "{", '{"images": [], "x": {'),
        "not valid",
    ),
    "a path that leads out": (
        replicas.karpathy,
        damage(
            "dataset_coco.json",
            json.dumps({"images": [{"split": "test", "filename": OUTSIDE, "sentences": [{"raw": "a"}]}]}),
        ),
        "no name inside",
    ),
    "an absolute path": (
        replicas.caption_list,
        replace_in("test.json", "images/0.jpg", "/etc/passwd"),
        "no name inside",
    ),
    "a missing image": (
        replicas.docci,
        damage("test_00003.jpg", None),
        r"1 of 6 images do not exist, such as .*test_00003\.jpg",
    ),
    "an image twice": (replicas.docci, replace_in("*.jsonlines", "test_00001.jpg", "test_00000.jpg"), "is named twice"),
    "a line that is no object": (
        replicas.docci,
        damage("*.jsonlines", '{"split": "x"}\n[]\n'),
        "line 2: expected a JSON object",
    ),
    "not UTF-8": (replicas.docci, damage("*.jsonlines", b"\xff\xfe"), "cannot be read as UTF-8"),
    "an empty file": (replicas.docci, damage("*.jsonlines", ""), "names no images of this split"),
    "a caption of one word of 20,000": (
        replicas.docci,
        replace_in("*.jsonlines", "number 0. test", "x" * 20000),
        "too long",
    ),
    "a blank caption": (replicas.urban1k, damage("4.txt", "\nsecond"), r"4\.txt: its first line is blank"),
    "no folder of captions": (replicas.urban1k, damage("caption", None), "has no folder `caption`"),
    "no splits": (replicas.dci, damage("splits.json", None), r"splits\.json: no such file"),
    "a split of numbers": (replicas.dci, damage("splits.json", '{"test": [1]}'), "a split is no list of file names"),
    "an annotation that leads out": (replicas.dci, damage("splits.json", '{"test": ["../x.json"]}'), "no name inside"),
    "an extra caption that is a list": (
        replicas.dci,
        replace_in("sa_0.json", '"extra_caption": ""', '"extra_caption": [1]'),
        "no text",
    ),
    "no description": (replicas.iiw, replace_in("data.jsonl", '"IIW":', '"IWI":'), "line 1: IIW is missing"),
    "one turn": (
        replicas.sharegpt4v,
        damage("share*.json", '[{"image": "x.jpg", "conversations": [{}]}]'),
        "no second turn",
    ),
    "no list": (replicas.sharegpt4v, damage("share*.json", '{"a": 1}'), "expected a JSON list"),
    "an entry that is text": (
        replicas.sharegpt4v,
        damage("share*.json", '["x"]'),
        "entry 1: expected a JSON object, found str",
    ),
    "deep entries": (
        replicas.sharegpt4v,
        damage("share*.json", '[{"a": ' + "[" * 10**5),
        "levels|inside its JSON list",
    ),
    "a huge number in an entry": (
        replicas.sharegpt4v,
        damage("share*.json", '[{"a": ' + "9" * 5000 + "}]"),
        "not valid JSON",
    ),
    "no mapping": (replicas.objectnet, damage("objectnet_to_imagenet_1k.json", "[]"), "expected a JSON object"),
    "a class that is a number": (
        replicas.objectnet,
        damage("folder_to_objectnet_label.json", '{"x": 5}'),
        "names no class",
    ),
    "no class folder": (replicas.objectnet, damage("images/backpack", None), r"backpack: no such folder"),
    "triplets as an object": (replicas.sugarcrepe_pp, damage("scpp/data/swap_obj.json", "{}"), "expected a JSON list"),
    "a triplet without its second caption": (
        replicas.sugarcrepe_pp,
        replace_in("scpp/data/swap_obj.json", "caption2", "caption3"),
        "entry 0: lacks caption2",
    ),
    "a subset that is missing": (
        replicas.sugarcrepe_pp,
        damage("scpp/data/swap_att.json", None),
        r"swap_att\.json: no such file",
    ),
    "an entry that leads out": (
        replicas.sugarcrepe,
        replace_in("sugar-crepe/data/add_att.json", "000000000000.jpg", OUTSIDE),
        "no name inside",
    ),
    "a Winoground image that leads out": (
        replicas.winoground,
        replace_in("examples.jsonl", "ex_0_img_0", "../x"),
        "line 1: image '../x.png' is no name inside",
    ),
    "another header": (replicas.mmvp_vlm, replace_in("Questions.csv", "Statement", "Text"), "expected the columns"),
    "an odd number of lines": (
        replicas.mmvp_vlm,
        replace_in("Questions.csv", "12,Camera Perspective,a red cube\n", ""),
        "11 lines",
    ),
    "two patterns in a pair": (
        replicas.mmvp_vlm,
        replace_in("Questions.csv", "1,Orient", "1,orient"),
        "are not one pattern",
    ),
    "a pattern that leads out": (
        replicas.mmvp_vlm,
        damage("Questions.csv", "Question ID,Type,Statement\n1,../..,a\n2,../..,b\n"),
        "no name inside",
    ),
    "a number that is text": (replicas.mmvp_vlm, replace_in("Questions.csv", "\n1,", "\nx,"), "expected a number"),
    "an open quotation mark": (replicas.mmvp_vlm, replace_in("Questions.csv", 'above"', "above"), "not a CSV file"),
    "no number of shards": (
        lambda folder: replicas.clip_benchmark(folder / "set"),
        damage("nshards.txt", None),
        "has no test/nshards.txt",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_files_give_one_error(tmp_path, name):
    write, change, message = DAMAGED[name]
    mapping = write(tmp_path)
    change(tmp_path)
    set_name = mapping["kind"] if mapping["group"] == "compositionality" else "replica"
    with pytest.raises(ConfigError, match=message) as caught:
        opened(mapping, set_name)
    assert str(caught.value).startswith(f"suite.sets.{set_name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["images/test_00000.jpg", "docci_descriptions.jsonlines"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, place):
    mapping = replicas.docci(tmp_path)
    file = tmp_path / "docci" / place
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="no regular file"):
        opened(mapping)


def test_a_damaged_shard_is_skipped_and_counted(tmp_path):
    mapping = replicas.clip_benchmark(tmp_path / "set")
    shard = tmp_path / "set" / "test" / "1.tar"
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    shard.write_bytes(shard.read_bytes()[: last.offset_data + 5])
    counted = CountedRecords(opened(mapping).images)
    assert len(list(counted.read())) == 5
    assert counted.skipped["truncated_shard"] == 1


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sets": {"a b": {"kind": "urban1k", "group": "retrieval"}}}, "must consist of"),
        ({"sets": {"mine": {"kind": "winoground", "group": "retrieval"}}}, "name it winoground"),
        ({"sets": {"winoground": {"kind": "urban1k", "group": "retrieval"}}}, "name it urban1k"),
        ({"sets": {"a": {"kind": "iiw", "group": "retrieval", "path": "x"}}}, "images_path"),
        ({"sets": {"a": {"kind": "dci", "group": "retrieval", "images_path": "x"}}}, "remove images_path"),
        ({"sets": {"a": {"kind": "laion", "group": "retrieval"}}}, "sets.a.kind"),
        ({"only": ["b"]}, "b: no such set"),
        ({"models": ""}, "an empty name"),
        ({"models": "a::::b"}, "an empty name"),
        ({"models": ["a"] * 21}, "at most 20"),
    ],
)
def test_wrong_configurations_are_refused(mapping, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(SuiteConfig, mapping, "suite")
