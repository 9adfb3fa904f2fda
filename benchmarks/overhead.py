"""What the worker, its event log and MLflow cost beside a bare PyTorch loop over the same model and data.

    python -m benchmarks.overhead [--rounds N] [--steps N] [--batch-size N] [--json]

Both train the embedded model on the same rendered scenes, in turn, with the same threads. The bare loop is what one would
write by hand: loader, forward, losses, backward, AdamW, schedule, clamp; it looks at no loss. Ours is the whole of
`kedro run`'s training: the worker under Composer with a `step` event every 10 steps, followed by this process, which sends
them to an MLflow run in SQLite. Neither evaluates nor saves while it is timed.

Times are of 10 steps each, without the first 30 steps; a round's figure is their median, and the overhead that of neighbouring
runs. `cpu` is the processor time of a step, of our worker and this process together: it says what is added to the machine's
work, and holds where other programs take the cores from one run and not from the next.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

INTERVAL = 10
WARM_UP = 2  # intervals


def prepared(folder: Path, samples: int) -> None:
    """Shards and a tokenizer."""
    from clips_pipeline.demo.source import ScenesConfig, ScenesSource
    from clips_pipeline.shards.prepare import prepare
    from clips_pipeline.shards.reader import eval_samples
    from clips_pipeline.text.train_vocabulary import train_wordpiece

    prepare(ScenesSource(ScenesConfig(train=samples, validation=64, test=64)), folder / "shards")
    records = eval_samples(folder / "shards", "train")
    captions = [text for record in records for text in (record.web_caption, record.synthetic_caption)]
    train_wordpiece(captions, 1000, folder / "tokenizer")


def spec_in(folder: Path, run: str, steps: int, batch_size: int, threads: int) -> Path:
    """The run spec, written as the training node writes it."""
    from clips_pipeline.config import from_mapping
    from clips_pipeline.shards.index import load_index
    from clips_pipeline.training.config import TrainConfig
    from clips_pipeline.training.launch import prepare_run_folder
    from clips_pipeline.training.spec import RunSpec

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
    return prepare_run_folder(spec)


def bare(path: Path) -> None:
    """The loop by hand; prints wall-clock and processor time after every interval."""
    import torch
    from torch.optim.lr_scheduler import LambdaLR

    from clips_pipeline.losses.total import LossWeights, clips_loss
    from clips_pipeline.models.clips import ClipsModel
    from clips_pipeline.shards.dataset import TrainDataset
    from clips_pipeline.shards.loader import train_loader
    from clips_pipeline.shards.transforms import normalise
    from clips_pipeline.text.captions import CaptionReader
    from clips_pipeline.text.tokenizer import load_tokenizer
    from clips_pipeline.training.callbacks import MAX_LOGIT_SCALE
    from clips_pipeline.training.optimizer import adamw
    from clips_pipeline.training.resolve import image_config, model_config
    from clips_pipeline.training.schedule import warmup_cosine
    from clips_pipeline.training.spec import load_spec

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
            images_BCHW = normalise(batch.images_BCHW, images.mean, images.std)
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
                print(time.time(), time.process_time(), flush=True)
            if step == config.steps:
                break
        epoch += 1


class Cost(NamedTuple):
    """Of a step, in seconds."""

    wall: float
    cpu: float


def bare_cost(path: Path, environment: dict[str, str]) -> Cost:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--bare", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    marks = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    return cost([wall for wall, _ in marks], [cpu for _, cpu in marks])


def our_cost(path: Path) -> Cost:
    """Wall-clock times are from the event log; processor times are looked up when an event arrives here."""
    import mlflow

    from clips_pipeline.registry.tracking import RunTracker
    from clips_pipeline.training.events import Event
    from clips_pipeline.training.launch import launch
    from clips_pipeline.training.signs import read_signs
    from clips_pipeline.training.spec import load_spec

    spec = load_spec(path)
    wall: list[float] = []
    cpu: list[float] = []
    with mlflow.start_run(), RunTracker(Path(spec.run_folder)) as tracker:

        def on_event(event: Event) -> None:
            tracker.record(event)
            if event["kind"] == "step":
                wall.append(event["time"])
                cpu.append(time.process_time() + cpu_of(read_signs(Path(spec.run_folder))[0].pid))

        launch(spec, on_event, tracker.reader(spec.events))
    return cost(wall, cpu)


def cpu_of(pid: int) -> float:
    """Processor seconds of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(wall: list[float], cpu: list[float]) -> Cost:
    """Median of the intervals' wall-clock times and mean of their processor times, without the warm-up."""
    spans = [later - earlier for earlier, later in pairwise(wall)]
    steps = INTERVAL * (len(cpu) - 1 - WARM_UP)
    return Cost(median(spans[WARM_UP:]) / INTERVAL, (cpu[-1] - cpu[WARM_UP]) / steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1, help="of torch; the other cores are for everything else")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    if options.bare is not None:
        bare(options.bare)
        return
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow

    from clips_pipeline.training.launch import environment_of_ranks

    ours: list[Cost] = []
    by_hand: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.create_experiment("overhead", artifact_location=str(folder / "artifacts"))
        mlflow.set_experiment("overhead")
        prepared(folder, 20 * options.batch_size)
        for number in range(options.rounds):
            spec = spec_in(folder, f"run-{number}", options.steps, options.batch_size, options.threads)
            # In turn within the rounds too, so that a machine that slows down favours neither.
            for mine in (number % 2 == 0, number % 2 == 1):
                if mine:
                    ours.append(our_cost(spec))
                else:
                    by_hand.append(bare_cost(spec, environment_of_ranks({})))
    pairs = list(zip(ours, by_hand, strict=True))
    wall, cpu = ([getattr(our, name) / getattr(hand, name) - 1 for our, hand in pairs] for name in Cost._fields)
    figures = {
        "bare_ms": round(1000 * median(hand.wall for hand in by_hand), 2),
        "ours_ms": round(1000 * median(our.wall for our in ours), 2),
        "overhead_share": round(median(wall), 4),
        "overhead_share_cpu": round(median(cpu), 4),
        "rounds": [round(share, 4) for share in wall],
        "rounds_cpu": [round(share, 4) for share in cpu],
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:26} {value}")


if __name__ == "__main__":
    main()
