"""Time and memory of joining shards with a table of synthetic captions.

    python -m benchmarks.recaption [--rows N] [--samples N] [--memory-mib N] [--json]

Makes a Parquet table (captions of about 400 characters, as in Recap-DataComp-1B) and shards of small images. Then it
builds the caption table and runs every task of the source in a separate process, whose peak memory is reported. A tenth
of the samples has no row.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

SAMPLES_PER_SHARD = 10_000
WORDS = (
    "a",
    "of",
    "the",
    "wooden",
    "bright",
    "person",
    "standing",
    "beside",
    "window",
    "table",
    "shadow",
    "photograph",
)


def make(folder: Path, rows: int, samples: int) -> None:
    """Write the Parquet table and the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    draws = random.Random(0)  # noqa: S311 - not used for security
    schema = pa.schema([("key", pa.string()), ("re_caption", pa.string())])
    with pq.ParquetWriter(folder / "table.parquet", schema) as writer:
        for start in range(0, rows, 50_000):
            keys = [f"{number:09d}" for number in range(start, min(start + 50_000, rows))]
            captions = [" ".join(draws.choices(WORDS, k=65)) + f" {key}." for key in keys]
            writer.write_table(pa.table({"key": keys, "re_caption": captions}, schema))
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 30)).save(buffer, "JPEG")
    # Keys are spread over the whole table; the last tenth is beyond it.
    step = max(1, rows * 10 // (samples * 9))
    for shard in range(-(-samples // SAMPLES_PER_SHARD)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * SAMPLES_PER_SHARD, min((shard + 1) * SAMPLES_PER_SHARD, samples)):
                for ending, content in (("jpg", buffer.getvalue()), ("txt", b"web caption"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{number * step:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def join(folder: Path, memory_mib: int) -> dict[str, float]:
    """Build the table, run all tasks, and return time and memory."""
    from clips_pipeline.data.shards.records import Record
    from clips_pipeline.data.sources.recaption import RecaptionConfig, RecaptionSource
    from clips_pipeline.data.storage.files import Storage

    shards = tuple(str(file) for file in sorted(folder.glob("*.tar")))
    config = RecaptionConfig(shards, str(folder / "table.parquet"), memory_mib=memory_mib)
    source = RecaptionSource(config, Storage(), folder / "work")
    begun = time.perf_counter()
    tasks = [task for split in source.splits for task in source.tasks(split)]
    built = time.perf_counter()
    kept = skipped = 0
    for task in tasks:
        for item in task.records():
            kept += isinstance(item, Record)
            skipped += not isinstance(item, Record)
    done = time.perf_counter()
    notes = source.notes()
    return {
        "rows": notes["table_rows_used"] + notes["table_rows_without_sample"],
        "samples": kept + skipped,
        "joined": kept,
        "without_row": skipped,
        "build_s": round(built - begun, 1),
        "join_s": round(done - built, 1),
        "samples_per_s": round((kept + skipped) / (done - built)),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Run the measurement and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        print(json.dumps(join(options.run, options.memory_mib)))
        return
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.rows, options.samples)
        command = [sys.executable, "-m", "benchmarks.recaption", "--run", name, "--memory-mib", str(options.memory_mib)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:16} {value:,}")


if __name__ == "__main__":
    main()
