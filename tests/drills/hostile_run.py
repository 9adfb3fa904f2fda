"""One part of the drill of hostile data, in a process of its own: `python -m tests.drills.hostile_run PART FOLDER CASES SEED`.

Prints one line of JSON: for each kind the cases made, used, and skipped by reason. What escapes as another error than
those of the project ends the process, and with it the drill.
"""

import csv
import io
import json
import random
import resource
import shutil
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.drills.hostile_kinds import MARKS, HostileShard, files_of, hostile_members, hostile_shards, tar_of
from tests.drills.mutations import count_samples
from tests.json_places import random_place
from tests.unit.data.samples import image_bytes, record, write_shard
from tests.unit.data.shards.test_hostile_headers import extended, header

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.prepare.watchdog import WatchdogConfig
from clips_pipeline.data.shards.index import load_classes, load_index
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.shards.tar_file import BadSampleError
from clips_pipeline.data.sources.captions_file import CaptionFields, read_captions
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkConfig, ClipBenchmarkSource
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
from clips_pipeline.data.storage.files import Storage, StorageError
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

HEADROOM_BYTES = 3 << 29
"""Address space that a process may take beyond its start: 1.5 GiB."""
SAMPLES_PER_SHARD = 20
PIECES = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", *"abcdefghijklmnopqrstuvwxyz0123456789", "##a", "##x"]

Counts = dict[str, Any]


class Tally:
    """Counts of one kind: every case is used, or skipped for one reason."""

    def __init__(self) -> None:
        self.used, self.skipped = 0, Counter[str]()

    def refuse(self, error: Exception) -> None:
        """Count a case that ended in one of the project's errors."""
        self.skipped[type(error).__name__] += 1

    def counts(self, made: int) -> Counts:
        return {"made": made, "used": self.used, "skipped": dict(self.skipped)}


def prepare_shards(folder: Path, out: Path, count: int, rewrite: bool) -> Counts:
    """Prepare the shards `00000.tar` to `COUNT - 1`, train one epoch on them, and return the counts."""
    for name, number in (("good", 100), ("fine", 200)):
        write_shard(folder / f"{name}.tar", [record(number)], "-")
    train = f"{folder}/{{00000..{count - 1:05d}}}.tar"
    fields = SampleFields(score="score")
    config = Img2datasetConfig(train, f"{folder}/good.tar", f"{folder}/fine.tar", fields=fields, rewrite=rewrite)
    prepare(Img2datasetSource(config, Storage()), out, processes=2, max_skipped_fraction=1.0, watchdog=WatchdogConfig())
    made = count_samples(folder, count)
    train_part = load_statistics(out).splits["train"]
    skipped = Counter(train_part.skipped)
    # A cut shard counts once more than its rows, for the samples that cannot be seen.
    skipped.pop("truncated_shard", None)
    skipped.update({f"filtered: {reason}": number for reason, number in train_part.filtered.items()})
    with closing(ShardSet(out, "train")) as shards:
        accepted = [shards.read(shard, row).key for shard, n in enumerate(shards.samples) for row in range(n)]
    assert len(accepted) == train_part.kept == load_index(out).split_samples("train")
    reader = CaptionReader(CaptionConfig(), WordPieceTokenizer(PIECES), seed=1)
    loader = train_loader(out, "train", reader, ImageConfig(size=16), global_batch_size=1, workers=2, seed=1)
    trained = Counter[str]()
    for batch in loader:
        trained.update(batch.keys)
        assert batch.skipped == {}, batch.skipped
    assert set(trained) == set(accepted)
    return {"made": made, "used": len(accepted), "skipped": dict(skipped), "keys": accepted}


def run_kinds(folder: Path, cases: int, draws: random.Random) -> dict[str, Counts]:
    """Prepare and train on a shard of each kind, in place and rewritten."""
    shards = list(hostile_shards())
    extra = ("members", hostile_members())
    for number, content in enumerate([*(shard.content for shard in shards), extra[1]]):
        (folder / "in" / f"{number:05d}.tar").write_bytes(content)
    found = {}
    for name, rewrite in (("in place", False), ("rewritten", True)):
        counts = prepare_shards(folder / "in", folder / "out" / name, len(shards) + 1, rewrite)
        _check_keys(shards, set(counts.pop("keys")))
        found[f"kinds, {name}"] = counts
    return found


def _check_keys(shards: list[HostileShard], used: set[str]) -> None:
    for shard in shards:
        assert used.issuperset(shard.good), f"{shard.name}: a good sample was not used"
        bad = set(shard.keys) - set(shard.good)
        assert shard.harmless or not bad & used, f"{shard.name}: was used"


def run_headers(folder: Path, cases: int, draws: random.Random) -> dict[str, Counts]:
    """Prepare shards with random headers after two good samples."""
    for number in range(cases):
        keys = (f"f{number:05d}a", f"f{number:05d}b")
        whole = tar_of(files_of(2 * number, keys[0]) + files_of(2 * number + 1, keys[1])).rstrip(b"\0")
        blocks = b"".join(_random_header(draws) for _ in range(draws.choice([1, 2, 6])))
        blocks += tar_of(files_of(3, f"f{number:05d}c"))
        (folder / "in" / f"{number:05d}.tar").write_bytes(whole + bytes(-len(whole) % 512) + blocks)
    counts = prepare_shards(folder / "in", folder / "out" / "shards", cases, draws.random() < 0.5)
    counts["shards"] = cases
    keys = set(counts.pop("keys"))
    assert keys >= {f"f{number:05d}{part}" for number in range(cases) for part in "ab"}
    return {"headers": counts}


def _random_header(draws: random.Random) -> bytes:
    kind = bytes([draws.choice(b"0127xgLKSVZ\x00\xff")])
    if kind in b"xgLK" and draws.random() < 0.8:
        key = draws.choice(["path", "size", "linkpath", "GNU.sparse.map", "SCHILY.xattr.a", "a" * 3_000, "\u202e"])
        value = draws.choice(["../../outside", "9" * 30, "-1", "", "\0", "x" * 70_000, "n.png", "0", "1e3"])
        body = f" {key}={value}\n".encode()
        length = draws.choice([len(body) + len(str(len(body))) + 1, 0, 10**12, len(body)])
        content = draws.choice([str(length).encode() + body, draws.randbytes(40), b"1" * 5_000, value.encode()])
        return extended(kind, content * draws.choice([1, 1, 3]))
    size = draws.choice(
        [b"0", b"00000000777", b"77777777777", b"-1", b"\xff" * 12, b"\x80" + bytes(10) + b"\x05", b"9z"]
    )
    name = draws.choice([b"../../outside.png", b"/abs.txt", b"a.json", b"\xff.png", b"x" * 100, b".png", b"n\nl.txt"])
    return header(kind, size, name) + draws.randbytes(draws.choice([0, 512, 1024]))


def run_content(folder: Path, cases: int, draws: random.Random) -> dict[str, Counts]:
    """Prepare shards whose captions and JSON are random."""
    shards = -(-cases // SAMPLES_PER_SHARD)
    for shard in range(shards):
        files = []
        for place in range(SAMPLES_PER_SHARD):
            bodies: dict[str, object] = {}
            if draws.random() < 0.7:
                bodies["json"] = _random_json(draws)
            if draws.random() < 0.7:
                bodies["txt"] = _random_caption(draws).encode("utf-8", draws.choice(["surrogatepass", "replace"]))
            files += files_of(place, f"c{shard:04d}{place:04d}", **bodies)
        (folder / "in" / f"{shard:05d}.tar").write_bytes(tar_of(files))
    counts = prepare_shards(folder / "in", folder / "out" / "shards", shards, rewrite=True)
    del counts["keys"]
    assert counts["made"] == shards * SAMPLES_PER_SHARD
    return {"content": counts}


_TEXTS = (
    "a photo", "", " ", "\0", "\u0301" * 2_000, "x" * 5_000, "\u202e", "\U0001f600" * 50, "&amp;" * 500, "<b>", "\ud800",
    "\ufdfa" * 300, "\u1e9e\u2122", "=1+1", "\r\n", "\\u0000", "A. " * 500, "\u200b" * 500, "\x1b[0m", "{}", "caf\u00e9",
)  # fmt: skip


def _random_caption(draws: random.Random) -> str:
    return draws.choice([" ", "", "\n"]).join(draws.choices(_TEXTS, k=draws.choice([1, 3, 10]))) + draws.choice(
        ["", "z"]
    )


def _random_value(draws: random.Random, depth: int = 0) -> str:
    kind = draws.randrange(12 if depth < 4 else 9)
    if kind < 4:
        return json.dumps(_random_caption(draws), ensure_ascii=draws.random() < 0.5)
    if kind == 4:
        return draws.choice(["9", "-"]) + "9" * draws.choice([1, 18, 309, 400, 4_301])
    if kind < 9:
        return draws.choice(
            ["null", "true", "NaN", "-Infinity", "1e999", "1e-999", "0.5", "[]", "{}", "-0", "1", "[[]]"]
        )
    values = [_random_value(draws, depth + 1) for _ in range(draws.randrange(4))]
    if kind == 9:
        return "[" * (deep := draws.choice([1, 2, 900, 3_000])) + ",".join(values) + "]" * deep
    return "{" + ",".join(f'"{number}": {value}' for number, value in enumerate(values)) + "}"


def _random_json(draws: random.Random) -> bytes:
    names = ["re_caption", "captions", "label", "score", "caption", "org_caption", "sha256", "key"]
    pairs = [f"{json.dumps(draws.choice(names))}: {_random_value(draws)}" for _ in range(draws.randrange(1, 6))]
    if draws.random() < 0.6:
        pairs.append('"re_caption": "One. Two."')
    return _damaged(("{" + ", ".join(pairs) + "}").encode("utf-8", "surrogatepass"), draws, 0.25)


def _damaged(content: bytes, draws: random.Random, share: float = 1.0) -> bytes:
    """Change some bytes of a share of all contents."""
    if not content or draws.random() >= share:
        return content
    changed = bytearray(content)
    for _ in range(draws.choice([1, 1, 5, 40])):
        at = draws.randrange(len(changed))
        changed[at : at + draws.choice([0, 1, 1, 4])] = draws.randbytes(draws.choice([0, 1, 1, 4])) or b"9"
    return bytes(changed[: draws.choice([len(changed), len(changed), draws.randrange(len(changed)) + 1])])


def run_tables(folder: Path, cases: int, draws: random.Random) -> dict[str, Counts]:
    """Read captions files, tables of the recaption source and sets of CLIP_benchmark that are random or damaged."""
    images = folder / "in"
    for number in range(4):
        (images / f"{number}.png").write_bytes(image_bytes(number))
    found = {}
    for ending in ("csv", "json", "parquet"):
        tally = Tally()
        for number in range(cases):
            file = images / f"captions.{ending}"
            file.write_bytes(_random_table(ending, draws))
            try:
                rows = read_captions(file, CaptionFields())
                if number % 10 == 0:
                    source = FolderSource(FolderConfig(str(images), str(file), evaluate_on="train"))
                    prepare(source, folder / "out" / "folder", max_skipped_fraction=1.0)
            except (ConfigError, StorageError) as error:
                tally.refuse(error)
                continue
            assert rows
            tally.used += 1
        found[ending] = tally.counts(cases)
    write_shard(images / "00000.tar", [record(number) for number in range(4)], "-")
    write_shard(images / "00001.tar", [record(9)], "-")
    tally = Tally()
    for number in range(cases // 4):
        table = _parquet(draws, ("key", "re_caption")) if draws.random() < 0.5 else _good_table()
        (images / "table.parquet").write_bytes(_damaged(table, draws, 0.6))
        paths = [str(images / name) for name in ("00000.tar", "00001.tar", "00001.tar", "table.parquet")]
        try:
            config = RecaptionConfig(paths[0], paths[3], paths[1], "none")
            source = RecaptionSource(config, Storage(), folder / "out" / f"table{number}")
            list(source.tasks("train"))
        except (ConfigError, StorageError) as error:
            tally.refuse(error)
            continue
        tally.used += 1
    found["recaption"] = tally.counts(cases // 4)
    found["clip_benchmark"] = _benchmark_sets(folder / "in" / "set", cases // 4, draws)
    return found


def _parquet(draws: random.Random, names: tuple[str, ...]) -> bytes:
    rows = draws.choice([0, 1, 20])
    columns: dict[str, Any] = {
        name: draws.choice([
            [f"{number}.png" for number in range(rows)], [f"k{number:04d}" for number in range(rows)], ["text"] * rows,
            [None] * rows, [b"\xff"] * rows, [2**60] * rows, [[["a"]]] * rows, [{"a": 1}] * rows, [float("nan")] * rows,
        ]) for name in names
    }  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def _good_table() -> bytes:
    stream = io.BytesIO()
    pq.write_table(
        pa.table({"key": [f"k{number:04d}" for number in range(10)], "re_caption": ["One. Two."] * 10}), stream
    )
    return stream.getvalue()


def _random_table(ending: str, draws: random.Random) -> bytes:
    names = ("image", "caption", "long_caption", "label", "score", "captions")
    if ending == "parquet":
        return _damaged(_parquet(draws, names[: draws.choice([2, 3, 6])]), draws, 0.6)
    hostile = (
        "../outside.png",
        "/etc/passwd",
        "0.png\0",
        "9" * 5_000,
        "y" * 200_000,
        "=cmd()",
        "0.png/",
        "NaN",
        "1e999",
    )
    rows: list[list[str]] = [
        [draws.choice([f"{number % 4}.png", draws.choice(hostile)])]
        + [draws.choice([_random_caption(draws), draws.choice(hostile), "3"]) for _ in names[1:]]
        for number in range(draws.choice([1, 5]))
    ]
    if ending == "json":
        body = ",".join(
            "{" + ",".join(f'"{n}": {_random_value(draws)}' for n in names[1:]) + ', "image": "0.png"}' for _ in rows
        )
        return _damaged(f"[{body}]".encode("utf-8", "surrogatepass"), draws, 0.3)
    stream = io.StringIO()
    writer = csv.writer(stream, escapechar="\\")
    writer.writerows([list(names), *rows])
    return _damaged(stream.getvalue().encode("utf-8", "surrogatepass"), draws, 0.3)


def _benchmark_sets(root: Path, cases: int, draws: random.Random) -> Counts:
    tally = Tally()
    for _ in range(cases):
        shutil.rmtree(root, ignore_errors=True)
        (root / "test").mkdir(parents=True)
        number = draws.choice(["1", "1\n", "\u00b2", "10000000", "9" * 5_000, "-1", "0", "1e3", "", "\0", "0x1"])
        (root / "test" / "nshards.txt").write_text(number)
        label = draws.choice(["0", "1", "9" * 5_000, "-1", "\u00b2", "x", "", "0.0"])
        content = tar_of(
            [("a.png", image_bytes(1)), ("a.cls", label.encode()), ("b.png", image_bytes(2)), ("b.cls", b"0")]
        )
        (root / "test" / "0.tar").write_bytes(_damaged(content, draws, 0.2))
        (root / "classnames.txt").write_bytes(_damaged(b"cat\ndog\n", draws, 0.3))
        (root / "zeroshot_classification_templates.txt").write_bytes(_damaged(b"a {c}\n", draws, 0.3))
        try:
            source = ClipBenchmarkSource(ClipBenchmarkConfig(str(root)), Storage())
            for task in source.tasks("test"):
                list(task.records())
        except (ConfigError, StorageError) as error:
            tally.refuse(error)
            continue
        tally.used += 1
    return tally.counts(cases)


def run_index(folder: Path, cases: int, draws: random.Random) -> dict[str, Counts]:
    """Read prepared folders whose index files are damaged."""
    write_shard(folder / "in" / "00000.tar", [record(number) for number in range(5)], "-")
    good = folder / "out" / "good"
    prepare_shards(folder / "in", good, 1, rewrite=True)
    (good / "classes.json").write_text('{"names": ["a", "b"], "templates": ["a {}"]}')
    readers: dict[str, Callable[[Path], object]] = {
        "index.json": _read_all,
        "spans.bin": _read_all,
        "statistics.json": load_statistics,
        "classes.json": load_classes,
    }
    found = {}
    for name, read in readers.items():
        tally, intact = Tally(), (good / name).read_bytes()
        for _ in range(cases):
            changed = _changed_json(intact, draws) if name.endswith(".json") and draws.random() < 0.6 else None
            if name.endswith(".json") and draws.random() < 0.05:
                levels = draws.choice([100, 900, 3_000, 100_000])
                changed = b'{"x":' + b'{"a":' * levels + b"1" + b"}" * levels + b"," + intact[1:]
            if name == "spans.bin" and draws.random() < 0.6:
                at = draws.randrange(len(intact) // 8) * 8
                value = struct.pack("<q", draws.choice([0, -1, 511, 2**40, 2**63 - 1, -(2**63)]))
                changed = intact[:at] + value + intact[at + 8 :]
            (good / name).write_bytes(_damaged(intact, draws) if changed is None else changed)
            try:
                read(good)
            except (ConfigError, StorageError, BadSampleError) as error:
                tally.refuse(error)
                continue
            tally.used += 1
        (good / name).write_bytes(intact)
        found[name] = tally.counts(cases)
    _read_all(good)
    return found


def _read_all(folder: Path) -> None:
    with closing(ShardSet(folder, "train")) as shards:
        for shard, count in enumerate(shards.samples):
            for row in range(min(count, 100)):
                shards.read(shard, row)


def _changed_json(content: bytes, draws: random.Random) -> bytes:
    """Replace one value, at any depth, by another."""
    whole = json.loads(content)
    place, key = random_place(whole, draws)
    value = draws.choice(
        ["../../outside", "/etc/passwd", -1, 2**70, 10**400, 1e308, None, [], {}, True, "", "x" * 9_000, MARKS[:500]]
    )
    if draws.random() < 0.2 and isinstance(place, dict):
        place[draws.choice(["../x", "", "new"])] = value
    else:
        place[key] = value
    return json.dumps(whole).encode()


PARTS: dict[str, Callable[[Path, int, random.Random], dict[str, Counts]]] = {
    "kinds": run_kinds,
    "headers": run_headers,
    "content": run_content,
    "tables": run_tables,
    "index": run_index,
}


def main() -> None:
    """Run one part, within a bound of memory for this process and each below it."""
    part, folder, cases, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    warnings.simplefilter("error")
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + HEADROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in ("in", "out"):
        (folder / name).mkdir()
    found = PARTS[part](folder, cases, random.Random(f"{part} {seed}"))  # noqa: S311 - no secret depends on it
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"peak_mib": peak // 1024, "counts": found}))


if __name__ == "__main__":
    main()
