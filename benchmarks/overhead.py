"""Benchmark of the overhead of a step: rank, event log and MLflow compared with a plain PyTorch loop.

    python -m benchmarks.overhead [--windows N] [--batch-size N] [--threads N] [--json]

Both train the embedded model on the same rendered scenes with the same number of threads. The plain loop has loader, forward,
losses, backward, AdamW, schedule and clamp; it reads no loss. Ours is the complete training of `kedro run`: a rank under Composer
with a `step` event every 10 steps, monitored by this process, which sends the events to an MLflow run in SQLite. Neither evaluates
or saves.

They take turns of two seconds: while one runs, the other is stopped (SIGSTOP), so that other programs disturb both equally. `ms`
is the median over spans of 10 steps, without the time in which the process was stopped; `cpu_ms` is processor time per step over
all turns, which depends less on other programs. The processor time of this process is reported separately, per step. The overhead
of a step hardly depends on the model, so a small batch shows it best (`overhead_ms`).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

INTERVAL = 10
WARM_UP = 3  # intervals
WINDOW_S = 2.0
STEPS = 1_000_000  # more than the benchmark runs


def prepare_data(folder: Path, samples: int) -> None:
    """Prepare shards and a tokenizer."""
    from clips_pipeline.data.prepare.run import prepare
    from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
    from clips_pipeline.data.shards.reader import eval_samples
    from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

    prepare(ScenesSource(ScenesConfig(train=samples, validation=64, test=64)), folder / "shards")
    records = eval_samples(folder / "shards", "train")
    captions = [text for record in records for text in (record.web_caption, record.synthetic_caption)]
    train_wordpiece(captions, 1000, folder / "tokenizer")


def write_run_spec(folder: Path, run: str, steps: int, batch_size: int, threads: int) -> Path:
    """Write the run spec as the training node does, and return its file."""
    from clips_pipeline.config import from_mapping
    from clips_pipeline.data.shards.index import load_index
    from clips_pipeline.training.config import TrainConfig
    from clips_pipeline.training.resume import run_folder
    from clips_pipeline.training.run_spec import RunSpec

    parameters = {
        "samples": steps * batch_size,
        "batch_size": batch_size,
        "every": {"log": INTERVAL, "evaluate": 10 * steps, "checkpoint": 10 * steps},
        "launch": {"device": "cpu", "threads": threads},
    }
    spec = RunSpec(
        from_mapping(TrainConfig, parameters, "train"),
        shards=str(folder / "shards"),
        tokenizer=str(folder / "tokenizer"),
        run_folder=str(folder / run),
        model_folder=str(folder / f"{run}-model"),
        data_version=load_index(folder / "shards").version,
    )
    Path(spec.run_folder).mkdir()
    return run_folder.write_spec(spec)


def run_plain_loop(path: Path) -> None:
    """Run the plain loop; print the time after every interval."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from clips_pipeline.data.images.transforms import normalize
    from clips_pipeline.data.loading.dataset import TrainDataset
    from clips_pipeline.data.loading.loader import train_loader
    from clips_pipeline.losses.total import LossWeights, clips_loss
    from clips_pipeline.models.clips import ClipsModel
    from clips_pipeline.text.caption_rows import CaptionReader
    from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
    from clips_pipeline.training.callbacks.logit_scale import MAX_LOG_LOGIT_SCALE
    from clips_pipeline.training.optimizer import adamw
    from clips_pipeline.training.resolve import image_config, model_config
    from clips_pipeline.training.run_spec import load_spec
    from clips_pipeline.training.schedule import warmup_cosine

    spec = load_spec(path)
    config = spec.train
    torch.set_num_threads(config.launch.threads or 1)
    torch.manual_seed(config.seed)
    tokenizer, images = load_tokenizer(Path(spec.tokenizer)), image_config(config)
    loader = train_loader(
        Path(spec.shards),
        "train",
        CaptionReader(config.captions, tokenizer, config.seed),
        images,
        global_batch_size=config.batch_size,
        seed=config.seed,
    )
    dataset = loader.dataset
    assert isinstance(dataset, TrainDataset)
    model = ClipsModel(model_config(config, tokenizer.vocab_size))
    optimizer = adamw(model, config.optimizer)
    schedule = LambdaLR(optimizer, warmup_cosine(config.steps, config.warmup_steps))
    weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
    step, epoch = 0, 0
    while step < config.steps:
        dataset.set_epoch(epoch)
        for batch in loader:
            images_BCHW = normalize(batch.images_BCHW, images.mean, images.std)
            output = model(images_BCHW, batch.web_ids_BL, batch.fragment_ids_BL, batch.target_ids_BT)
            loss = clips_loss(output, model.captioner.head.weight, weights).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
            step += 1
            if step % INTERVAL == 0:
                print(time.time(), flush=True)
            if step == config.steps:
                break
        epoch += 1


class PausedProcess:
    """A process that is stopped and continued in turns, and the times in which it was stopped.

    Args:
        pid: the process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped: list[tuple[float, float]] = []
        self._since = 0.0

    def stop(self) -> None:
        """Stop the process."""
        os.kill(self.pid, signal.SIGSTOP)
        self._since = time.time()

    def resume(self) -> None:
        """Continue the process."""
        self.stopped.append((self._since, time.time()))
        os.kill(self.pid, signal.SIGCONT)

    def progress(self, marks: list[float]) -> tuple[float, float]:
        """Return the processor seconds used and the steps done so far. Call it while the process is stopped."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        # The part of the current span is estimated from the length of the spans so far.
        typical = (
            INTERVAL * self.per_step(marks) if len(self.stopped) > 1 else (marks[-1] - marks[0]) / (len(marks) - 1)
        )
        elapsed = self._running(marks[-1], self._since)
        return cpu, INTERVAL * (len(marks) + elapsed / typical)

    def _running(self, early: float, late: float) -> float:
        stopped = sum(max(0.0, min(end, late) - max(begin, early)) for begin, end in self.stopped)
        return late - early - stopped

    def per_step(self, marks: list[float]) -> float:
        """Return the median seconds per step since the first stop, from marks that are INTERVAL steps apart."""
        first = self.stopped[0][0]
        spans = [self._running(early, late) for early, late in pairwise(marks) if early > first]
        return median(spans) / INTERVAL


def measure(path: Path, environment: dict[str, str], windows: int) -> dict[str, float]:
    """Measure both in turns; `path` is the run spec of our training and the configuration of the plain loop."""
    import mlflow

    from clips_pipeline.registry.tracking.run_tracking import RunTracker
    from clips_pipeline.training.events.event_log import Event
    from clips_pipeline.training.launch.heartbeat import read_heartbeats
    from clips_pipeline.training.launch.launcher import launch
    from clips_pipeline.training.run_spec import load_spec

    spec = load_spec(path)
    command = [sys.executable, "-m", "benchmarks.overhead", "--bare", str(path)]
    bare_marks: list[float] = []
    our_marks: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as plain_loop:
        reading = threading.Thread(target=lambda: bare_marks.extend(map(float, plain_loop.stdout or [])))
        reading.start()
        with mlflow.start_run(), RunTracker(Path(spec.run_folder)) as tracker:

            def on_event(event: Event) -> None:
                tracker.record(event)
                if event["kind"] == "step":
                    our_marks.append(event["time"])

            def ours() -> None:
                launch(spec, on_event, tracker.reader(spec.events))

            launching = threading.Thread(target=ours)
            launching.start()
            turns: list[PausedProcess] = []
            try:
                while min(len(bare_marks), len(our_marks)) < WARM_UP:
                    time.sleep(0.1)
                plain, rank = (
                    PausedProcess(plain_loop.pid),
                    PausedProcess(read_heartbeats(Path(spec.run_folder))[0].pid),
                )
                turns += [plain, rank]
                plain.stop()
                rank.stop()
                time.sleep(1.0)  # until their last output has arrived
                before = plain.progress(bare_marks), rank.progress(our_marks), time.process_time()
                for _ in range(windows):
                    for turn in (plain, rank):
                        turn.resume()
                        time.sleep(WINDOW_S)
                        turn.stop()
                time.sleep(1.0)
                after = plain.progress(bare_marks), rank.progress(our_marks), time.process_time()
            finally:
                # Also after an interrupt: no process may stay behind, stopped or running.
                spec.stop_flag.touch()
                for turn in turns:
                    os.kill(turn.pid, signal.SIGCONT)
                plain_loop.kill()
            launching.join()
        reading.join()
    bare_s, ours_s = plain.per_step(bare_marks), rank.per_step(our_marks)
    bare_cpu, our_cpu = ((after[i][0] - before[i][0]) / (after[i][1] - before[i][1]) for i in (0, 1))
    steps = round(after[1][1] - before[1][1])
    return {
        "bare_ms": round(1000 * bare_s, 2),
        "ours_ms": round(1000 * ours_s, 2),
        "overhead_fraction": round(ours_s / bare_s - 1, 4),
        "bare_cpu_ms": round(1000 * bare_cpu, 2),
        "ours_cpu_ms": round(1000 * our_cpu, 2),
        "overhead_ms": round(1000 * (ours_s - bare_s), 2),
        "overhead_cpu_ms": round(1000 * (our_cpu - bare_cpu), 2),
        "overhead_fraction_cpu": round(our_cpu / bare_cpu - 1, 4),
        # This process monitors during the turns of both, which last twice as long as ours.
        "monitor_cpu_ms": round(1000 * (after[2] - before[2]) / 2 / steps, 2),
        "steps": steps,
    }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=45, help="number of turns of each side")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads; the other cores are for all other processes"
    )
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    if options.bare is not None:
        run_plain_loop(options.bare)
        return
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    import mlflow

    from clips_pipeline.training.launch.launcher import rank_environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.create_experiment("overhead", artifact_location=str(folder / "artifacts"))
        mlflow.set_experiment("overhead")
        prepare_data(folder, 20 * options.batch_size)
        spec = write_run_spec(folder, "run", STEPS, options.batch_size, options.threads)
        figures = measure(spec, rank_environment({}), options.windows)
    figures |= {"batch_size": options.batch_size, "threads": options.threads}
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:20} {value}")


if __name__ == "__main__":
    main()
