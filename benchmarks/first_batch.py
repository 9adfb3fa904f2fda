"""Seconds to the first batch from an index of 140,000 shards, on one process and on several ranks.

    python -m benchmarks.first_batch [--processes 1 8] [--check together each] [--json]

The shards are links to one file of 10,000 small samples. Every rank is a real process in a gloo group and does what a rank of a
training does with the index: it reads it, checks that every shard is there, computes the order, and starts a loader worker that
makes its part of the first global batch of 256 at 112 pixels. Time runs from when all ranks have imported their modules to the
slowest rank; CPU seconds are those of all ranks, without their loader workers. With `each`, every rank checks every shard; with
`together`, as in a training, the first rank of a machine does.
"""

import argparse
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.loader import SHARDS, caption_reader, image_config, peak_gib

LISTED_SHARDS, LISTED_SAMPLES = 140_000, 10_000
BATCH = 256
FOLDER = SHARDS / "listed"


def make_index() -> None:
    """Write an index of 140,000 shards: links to one tar file of 10,000 small samples."""
    from PIL import Image

    from benchmarks.photos import photo
    from clips_pipeline.data.loading.order import MAX_STREAMS, EpochOrder
    from clips_pipeline.data.shards import sample_offsets
    from clips_pipeline.data.shards.index import Index, ShardEntry
    from clips_pipeline.data.shards.records import Caption, Record
    from clips_pipeline.data.shards.tar_file import TarFile
    from clips_pipeline.data.shards.writer import make_sample, write_samples

    if (FOLDER / "index.json").is_file():
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "train").mkdir(parents=True)
    small = io.BytesIO()
    with Image.open(io.BytesIO(photo(0))) as opened:
        opened.resize((160, 120)).save(small, "JPEG")
    records = (
        Record(f"{number:09d}", small.getvalue(), "jpg", ("a picture",), (Caption("It is a picture. It is small."),))
        for number in range(LISTED_SAMPLES)
    )
    real = write_samples(FOLDER / "one.tar", map(make_sample, records), "one.tar")
    entries = []
    for number in range(LISTED_SHARDS):
        name = f"train/{number:06d}.tar"
        (FOLDER / name).symlink_to("../one.tar")
        entries.append(ShardEntry(name, real.samples, real.bytes, real.sha256, real.keys_digest))
    # A sparse file of the real size (11 GB): only the spans that the first batches read use disk space.
    with TarFile(FOLDER / "one.tar") as tar:
        found = sample_offsets.to_bytes(tar.spans)
    order = EpochOrder([LISTED_SAMPLES] * LISTED_SHARDS, 0, streams=MAX_STREAMS)
    with (FOLDER / sample_offsets.SPANS_FILE).open("wb") as file:
        file.truncate(len(found) * LISTED_SHARDS)
        for shard in {at for stream in range(MAX_STREAMS) for at in order.window_shards(0, stream, 0)}:
            file.seek(shard * len(found))
            file.write(found)
    Index("benchmark", {"train": tuple(entries)}, {}).save(FOLDER)


def measure_rank(check: str) -> None:
    """Start the data of one rank; rank 0 prints the figures of the slowest rank."""
    import torch
    from composer.utils import dist

    from clips_pipeline.data.loading.loader import train_loader
    from clips_pipeline.data.shards.index import check_shards, load_index
    from clips_pipeline.training.training_run import check_shards_together

    torch.set_num_threads(1)
    rank, ranks = dist.get_global_rank(), dist.get_world_size()
    if ranks > 1:
        dist.initialize_dist("cpu")
    captions = caption_reader()
    before = peak_gib()
    dist.barrier()
    started, used = time.perf_counter(), time.process_time()
    index = load_index(FOLDER)  # whether there are remote shards, before the ranks are connected
    loader = train_loader(
        FOLDER,
        "train",
        captions,
        image_config(112),
        global_batch_size=BATCH,
        rank=rank,
        world_size=ranks,
        workers=1,
        check=check_shards_together if check == "together" else check_shards,
    )
    made, used = time.perf_counter() - started, time.process_time() - used
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - started
    del batches, loader, index  # the end of a loader worker, for its peak
    own = {
        "loader_made_s": made,
        "loader_made_cpu_s": used,
        "first_batch_s": first,
        "peak_rss_before_gib": before,
        "peak_rss_gib": peak_gib(),
        "peak_rss_worker_gib": peak_gib(resource.RUSAGE_CHILDREN),
    }
    every = dist.all_gather_object(own)
    if rank == 0:
        figures = {name: max(one[name] for one in every) for name in own}
        figures["loader_made_cpu_s"] = sum(one["loader_made_cpu_s"] for one in every)
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
    dist.barrier()


def measure(processes: int, check: str) -> dict[str, float]:
    """Measure one start in this many ranks, each a process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = []
    for rank in range(processes):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        address = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_WAIT_POLICY": "PASSIVE"}
        environment = {**os.environ, **address, **{name: str(value) for name, value in world.items()}}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.first_batch", "--rank", check]
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        printed = [process.communicate()[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    if any(process.returncode for process in ranks):
        raise SystemExit("a rank failed; its error is above")
    return dict(json.loads(printed[0].splitlines()[-1]))


def main() -> None:
    """Run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8], help="numbers of ranks")
    parser.add_argument(
        "--check", nargs="+", choices=["together", "each"], default=["together"], help="who checks the index"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each measurement")
    parser.add_argument("--rank", choices=["together", "each"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        measure_rank(options.rank)
        return
    make_index()
    for processes in options.processes:
        for check in options.check:
            figures: dict[str, Any] = {"processes": processes, "check": check, **measure(processes, check)}
            if options.json:
                print(json.dumps(figures), flush=True)
            else:
                print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
