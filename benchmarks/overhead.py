"""What the worker, its event log and MLflow cost beside a bare PyTorch loop over the same model and data.

    python -m benchmarks.overhead [--windows N] [--batch-size N] [--threads N] [--json]

Both train the embedded model on the same rendered scenes with the same threads. The bare loop is what one would write by
hand: loader, forward, losses, backward, AdamW, schedule, clamp; it looks at no loss. Ours is the whole of `kedro run`'s
training: the worker under Composer with a `step` event every 10 steps, followed by this process, which sends them to an
MLflow run in SQLite. Neither evaluates nor saves.

They take turns of two seconds: while one runs the other is stopped (SIGSTOP), so that whatever else the machine does, it does
to both. `ms` is the median over spans of 10 steps, less the time for which the process stood still; `cpu_ms` is processor time
per step over all turns, which other programs lengthen less. What this process itself takes is reported apart, per step. What is
added to a step hardly depends on the model, so a small batch shows it best (`overhead_ms`), and most of all on a busy machine.
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
STEPS = 1_000_000  # more than are run


def prepared(folder: Path, samples: int) -> None:
    """Shards and a tokenizer."""
    from clips_pipeline.data.prepare.run import prepare
    from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
    from clips_pipeline.data.shards.reader import eval_samples
    from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece

    prepare(ScenesSource(ScenesConfig(train=samples, validation=64, test=64)), folder / "shards")
    records = eval_samples(folder / "shards", "train")
    captions = [text for record in records for text in (record.web_caption, record.synthetic_caption)]
    train_wordpiece(captions, 1000, folder / "tokenizer")


def spec_in(folder: Path, run: str, steps: int, batch_size: int, threads: int) -> Path:
    """The run spec, written as the training node writes it."""
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


def bare(path: Path) -> None:
    """The loop by hand; prints the time after every interval."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from clips_pipeline.data.images.transforms import normalize
    from clips_pipeline.data.loading.dataset import TrainDataset
    from clips_pipeline.data.loading.loader import train_loader
    from clips_pipeline.losses.total import LossWeights, clips_loss
    from clips_pipeline.models.clips import ClipsModel
    from clips_pipeline.text.caption_rows import CaptionReader
    from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
    from clips_pipeline.training.callbacks.logit_scale import MAX_LOGIT_SCALE
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
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            step += 1
            if step % INTERVAL == 0:
                print(time.time(), flush=True)
            if step == config.steps:
                break
        epoch += 1


class Turns:
    """When a process stood still."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped: list[tuple[float, float]] = []
        self._since = 0.0

    def stop(self) -> None:
        """From now on."""
        os.kill(self.pid, signal.SIGSTOP)
        self._since = time.time()

    def go(self) -> None:
        """And on it goes."""
        self.stopped.append((self._since, time.time()))
        os.kill(self.pid, signal.SIGCONT)

    def done(self, marks: list[float]) -> tuple[float, float]:
        """Processor seconds used and steps made up to now, while it stands still."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        # The part of the span that has begun is told by the length of spans so far.
        typical = (
            INTERVAL * self.per_step(marks) if len(self.stopped) > 1 else (marks[-1] - marks[0]) / (len(marks) - 1)
        )
        begun = self._running(marks[-1], self._since)
        return cpu, INTERVAL * (len(marks) + begun / typical)

    def _running(self, early: float, late: float) -> float:
        still = sum(max(0.0, min(end, late) - max(begin, early)) for begin, end in self.stopped)
        return late - early - still

    def per_step(self, marks: list[float]) -> float:
        """Median seconds of a step, between marks that are INTERVAL steps apart, since the first stop."""
        first = self.stopped[0][0]
        spans = [self._running(early, late) for early, late in pairwise(marks) if early > first]
        return median(spans) / INTERVAL


def measure(path: Path, environment: dict[str, str], windows: int) -> dict[str, float]:
    """Both in turn; `path` is the run spec of ours and the configuration of the other."""
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
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as by_hand:
        reading = threading.Thread(target=lambda: bare_marks.extend(map(float, by_hand.stdout or [])))
        reading.start()
        with mlflow.start_run(), RunTracker(Path(spec.run_folder)) as tracker:

            def on_event(event: Event) -> None:
                tracker.record(event)
                if event["kind"] == "step":
                    our_marks.append(event["time"])

            def ours() -> None:
                launch(spec, on_event, tracker.reader(spec.events))

            following = threading.Thread(target=ours)
            following.start()
            turns: list[Turns] = []
            try:
                while min(len(bare_marks), len(our_marks)) < WARM_UP:
                    time.sleep(0.1)
                hand, worker = Turns(by_hand.pid), Turns(read_heartbeats(Path(spec.run_folder))[0].pid)
                turns += [hand, worker]
                hand.stop()
                worker.stop()
                time.sleep(1.0)  # for what they have told to arrive
                before = hand.done(bare_marks), worker.done(our_marks), time.process_time()
                for _ in range(windows):
                    for turn in (hand, worker):
                        turn.go()
                        time.sleep(WINDOW_S)
                        turn.stop()
                time.sleep(1.0)
                after = hand.done(bare_marks), worker.done(our_marks), time.process_time()
            finally:
                # Also when it is interrupted: nothing stays behind, stopped or running.
                spec.stop_flag.touch()
                for turn in turns:
                    os.kill(turn.pid, signal.SIGCONT)
                by_hand.kill()
            following.join()
        reading.join()
    bare_s, ours_s = hand.per_step(bare_marks), worker.per_step(our_marks)
    bare_cpu, our_cpu = ((after[i][0] - before[i][0]) / (after[i][1] - before[i][1]) for i in (0, 1))
    steps = round(after[1][1] - before[1][1])
    return {
        "bare_ms": round(1000 * bare_s, 2),
        "ours_ms": round(1000 * ours_s, 2),
        "overhead_share": round(ours_s / bare_s - 1, 4),
        "bare_cpu_ms": round(1000 * bare_cpu, 2),
        "ours_cpu_ms": round(1000 * our_cpu, 2),
        "overhead_ms": round(1000 * (ours_s - bare_s), 2),
        "overhead_cpu_ms": round(1000 * (our_cpu - bare_cpu), 2),
        "overhead_share_cpu": round(our_cpu / bare_cpu - 1, 4),
        # It follows through the turns of both, which last twice as long as ours alone.
        "following_cpu_ms": round(1000 * (after[2] - before[2]) / 2 / steps, 2),
        "steps": steps,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=45, help="turns of each")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1, help="of torch; the other cores are for everything else")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    if options.bare is not None:
        bare(options.bare)
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
        prepared(folder, 20 * options.batch_size)
        spec = spec_in(folder, "run", STEPS, options.batch_size, options.threads)
        figures = measure(spec, rank_environment({}), options.windows)
    figures |= {"batch_size": options.batch_size, "threads": options.threads}
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:20} {value}")


if __name__ == "__main__":
    main()
