"""Throughput and memory of `prepare`, the speedup by a second process, and webdataset's own resharding beside it.

    python -m benchmarks.prepare [--repeats N] [--json]
    python -m benchmarks.prepare --duplicates [--jobs N] [--json]

4,096 samples with JPEGs of 512 px and about 83 kB in 16 shards (those of `benchmarks.loader`): `rewritten` copies the
used samples into new shards, `in_place` writes an index of the existing shards, `parquet` reads the same images from
Parquet files. Each runs with 1 and with 2 processes in a fresh Python, including the start of the processes; runs
alternate, and the best of each is reported.

`webdataset` reads the same shards with `WebDataset` and writes them with `ShardWriter`, in one process: bytes only, which
checks nothing, and with every image decoded by Pillow (`webdataset_decoded`), as `prepare` does.

`--duplicates` measures the work of the parent process alone: finding duplicates between many jobs of 10,000 samples
each, and combining the results.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CACHE = Path(".cache")
SHARDS, PARQUET = CACHE / "bench-loader", CACHE / "bench-parquet"
IMAGES, SAMPLES, PER_SHARD = 256, 4096, 256
KINDS = ("rewritten", "in_place", "parquet")
PEERS = ("webdataset", "webdataset_decoded")
ROWS_PER_JOB = 10_000
REPEATED = 0.1


def measure(kind: str, processes: int) -> dict[str, float]:
    """Run `prepare` once on the existing shards."""
    from clips_pipeline.data.prepare.run import prepare

    files = sorted(SHARDS.absolute().glob("train/*.tar"))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if kind in PEERS:
            begun = time.perf_counter()
            assert _reshard(files, Path(folder), decoded=kind != "webdataset") == SAMPLES
        else:
            source = _source(kind, files)
            begun = time.perf_counter()
            index = prepare(source, Path(folder, "shards"), processes=processes)
            assert sum(index.split_samples(split) for split in index.splits) == SAMPLES
        seconds = time.perf_counter() - begun
    return {
        "samples_per_s": SAMPLES / seconds,
        # Other programs on the machine hardly change it; reading and writing wait without it.
        "samples_per_cpu_s": SAMPLES / _cpu_seconds(),
        "mb_per_s": sum(file.stat().st_size for file in files) / seconds / 1e6,
        "parent_peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "worker_peak_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its ended children, the start of Python included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _source(kind: str, files: list[Path]) -> Any:
    from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
    from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource
    from clips_pipeline.data.sources.parquet_columns import ParquetColumns
    from clips_pipeline.data.storage.files import Storage

    if kind == "parquet":
        columns = ParquetColumns(web="web", synthetic="synthetic", key="key")
        return ParquetSource(ParquetConfig(str(PARQUET.absolute() / "*.parquet"), columns), Storage())
    return Img2datasetSource(Img2datasetConfig(tuple(map(str, files)), rewrite=kind == "rewritten"), Storage())


def _reshard(files: list[Path], folder: Path, *, decoded: bool) -> int:
    """Copy shards by webdataset alone; return the number of samples."""
    import io

    import webdataset
    from PIL import Image

    count = 0
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=PER_SHARD, verbose=0) as writer:
        for sample in webdataset.WebDataset([str(file) for file in files], shardshuffle=False):
            if decoded:
                Image.open(io.BytesIO(sample["jpg"])).load()
            names = ("__key__", "jpg", "txt", "json")
            writer.write({name: sample[name] for name in names})
            count += 1
    return count


def _write_parquet() -> None:
    """Write the samples of the shards as Parquet files, in row groups of 100 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from clips_pipeline.data.shards.reader import ShardSet

    shards = ShardSet(SHARDS, "train")
    PARQUET.mkdir(exist_ok=True)
    for number, count in enumerate(shards.samples):
        file = PARQUET / f"{number:05d}.parquet"
        if not file.is_file():
            found = [shards.read(number, row) for row in range(count)]
            columns = {
                "key": [record.key for record in found],
                "image": [record.image for record in found],
                "web": [record.web_caption for record in found],
                "synthetic": [record.synthetic_caption for record in found],
            }
            pq.write_table(pa.table(columns), file, row_group_size=100)


def duplicates(jobs: int) -> dict[str, float]:
    """Combine the results of `jobs` jobs, of whose images a tenth repeat earlier ones."""
    import numpy as np

    from clips_pipeline.data.prepare.dedup import find_duplicates
    from clips_pipeline.data.prepare.job_files import ROW, JobFiles, JobResult
    from clips_pipeline.data.prepare.sample_checker import histograms
    from clips_pipeline.data.prepare.statistics import SplitStatistics
    from clips_pipeline.data.shards.index import ShardEntry

    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        (folder / "jobs" / "train").mkdir(parents=True)
        files = [JobFiles(folder, "train", number) for number in range(jobs)]
        values = int(jobs * ROWS_PER_JOB / (2 * REPEATED))
        for file in files:
            rows = np.zeros(ROWS_PER_JOB, ROW)
            rows["image"] = draws.integers(0, values, ROWS_PER_JOB, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            for column in ("image_width", "image_height", "image_bytes", "web_characters", "synthetic_characters"):
                rows[column] = draws.lognormal(6, 0.5, ROWS_PER_JOB)
            file.save_rows(rows, ["000000000"] * ROWS_PER_JOB)
            entry = ShardEntry(f"s3://bucket/{file.number:08d}.tar", ROWS_PER_JOB, 10**9, "0" * 64, "0" * 64)
            statistics = SplitStatistics(ROWS_PER_JOB, shards=1, histograms=histograms(rows))
            file.save(JobResult((entry,), statistics), np.zeros((ROWS_PER_JOB, 2), np.int64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        found = find_duplicates(files, "image", folder / "work", excluded=lambda job: np.zeros(0, np.int64))
        searched = time.perf_counter()
        total = SplitStatistics()
        for file in files:
            total = total.merge(file.load().statistics)
        joined = time.perf_counter()
    return {
        "jobs": jobs,
        "samples": total.kept,
        "repeated": found.total,
        "search_s": searched - begun,
        "samples_searched_per_s": total.kept / (searched - begun),
        "join_ms_per_job": 1000 * (joined - searched) / jobs,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_rss_before_mib": before / 1024,
    }


def main() -> None:
    """Run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--duplicates", action="store_true")
    parser.add_argument("--jobs", type=int, default=1400, help="number of jobs for --duplicates")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    CACHE.mkdir(exist_ok=True)
    figures: dict[str, Any] = duplicates(options.jobs) if options.duplicates else _both(options.repeats)
    figures = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:36} {value:,}")


def _both(repeats: int) -> dict[str, float]:
    from benchmarks.photos import make_shards

    make_shards(SHARDS, None, IMAGES, SAMPLES, PER_SHARD)
    # In a process of its own: the peak of a process is at least that of its parent when it starts.
    subprocess.run([sys.executable, "-c", "from benchmarks import prepare; prepare._write_parquet()"], check=True)
    best: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(repeats):
        for kind in (*KINDS, *PEERS):
            for processes in (1, 2) if kind in KINDS else (1,):
                command = [sys.executable, "-m", "benchmarks.prepare", "--measure", kind, str(processes)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                former = best.get((kind, processes), found)
                best[kind, processes] = max(found, former, key=lambda run: run["samples_per_cpu_s"])
    figures = {
        f"{kind}_{processes}_{name}": value for (kind, processes), run in best.items() for name, value in run.items()
    }
    for kind in KINDS:
        figures[f"{kind}_speedup"] = best[kind, 2]["samples_per_s"] / best[kind, 1]["samples_per_s"]
    return figures


if __name__ == "__main__":
    main()
