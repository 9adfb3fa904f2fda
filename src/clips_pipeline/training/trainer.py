"""The training itself, in the process that `training.launch.worker` is: build, resume, run, export with Composer's `Trainer`.

Knows no Kedro, MLflow or Optuna. Reports through the event log.
"""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from composer import Trainer
from composer.algorithms import EMA, GradientClipping
from composer.callbacks import LRMonitor, SpeedMonitor
from composer.core import Algorithm, Callback, DataSpec, State
from composer.utils import dist, get_device
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.data.loading.dataset import TrainDataset
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.evaluation.inference.caption_examples import caption_examples, draw_examples, examples_to_mapping
from clips_pipeline.evaluation.inference.training_retrieval import measure_retrieval
from clips_pipeline.interop.folder import save_model
from clips_pipeline.losses.total import LossWeights
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.training import sharding
from clips_pipeline.training.callbacks.caption_log import CaptionLog
from clips_pipeline.training.callbacks.data_wait import DataWaitMonitor
from clips_pipeline.training.callbacks.divergence import DivergenceMonitor
from clips_pipeline.training.callbacks.heartbeat import HeartbeatCallback
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule, ImageScheduleUpdate
from clips_pipeline.training.callbacks.logit_scale import LogitScaleClamp
from clips_pipeline.training.callbacks.retrieval import RetrievalCallback
from clips_pipeline.training.callbacks.sample_trace import SampleTrace
from clips_pipeline.training.callbacks.stop_request import StopRequestMonitor
from clips_pipeline.training.composer_model import ComposerClips
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import EventLogger, every
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
from clips_pipeline.training.launch.interrupt import Interrupt
from clips_pipeline.training.optimizer import adamw
from clips_pipeline.training.resolve import image_config, model_config, start_facts
from clips_pipeline.training.resume import checkpoint_callback, checkpoint_store, run_folder
from clips_pipeline.training.resume.initial_weights import load_initial_weights
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec
from clips_pipeline.training.schedule import apply_current_rate, warmup_cosine


def train(spec: RunSpec, writer: EventWriter | None, life: HeartbeatWriter, interrupt: Interrupt) -> bool:
    """Train `spec` to its end (or until it is asked to stop) and export the model.

    Args:
        spec: what to train.
        writer: the event log on rank 0, None on other ranks.
        life: told of every part of a step.
        interrupt: looked at after every step.

    Returns:
        whether it came to its end.

    Raises:
        ConfigError: the configuration does not fit the data or the machine.
        TrainingDivergedError: a loss became NaN or infinite.
        CannotWriteError: a disk is full, or the like.
    """
    run = Run(spec, writer)
    checkpoint = _resume(run)
    trace = SampleTrace(every(spec.train.every.log, spec.train.steps))
    trainer = _trainer(run, checkpoint, [HeartbeatCallback(life), *_observers(run, trace, interrupt)])
    # Not `trainer.close`, which waits for all ranks: one that fails must not wait for those that do not.
    with closing(trainer.engine):
        sharding.check(spec.train.launch.sharding, run.clips, in_chunks=run.in_chunks)
        # A run of another length goes on at the rate of its new schedule; without a change it is the rate that was saved.
        apply_current_rate(run.schedule)
        if int(trainer.state.timestamp.batch) < spec.train.steps:
            trainer.fit()
        finished = _export(run, trainer.state, dict(trace.skipped))
    dist.barrier()
    return finished


class Run:
    """What a training is made of before Composer has it: device, data, model, optimiser, schedule.

    Args:
        spec: what to train.
        writer: the event log on rank 0, None on other ranks.

    Raises:
        ConfigError: the configuration does not fit the data or the machine.
    """

    def __init__(self, spec: RunSpec, writer: EventWriter | None) -> None:
        self.spec, self.config, self.writer = spec, spec.train, writer
        self.code = run_folder.code_digest()
        config = spec.train
        self.device = "gpu" if _use_gpu(config.launch.device) else "cpu"
        self.ranks = dist.get_world_size()
        torch.set_num_threads(config.launch.threads or max(1, (os.cpu_count() or 1) // dist.get_local_world_size()))
        self.max_wait_s = _patience_s(spec)
        if self.ranks > 1:
            # One rank has no group: Composer would sum over it several times in a step.
            dist.initialize_dist(get_device(self.device), self.max_wait_s)
        torch.manual_seed(config.seed)
        self.tokenizer: Tokenizer = load_tokenizer(Path(spec.tokenizer))
        self.images: ImageConfig = image_config(config)
        options = json.loads(os.environ.get(STORAGE_OPTIONS, "{}"))
        self.remote = ShardCache(Path(spec.shard_cache), Storage(spec.storage, options))
        self.loader = self._loader()
        clips = ClipsModel(model_config(config, self.tokenizer.vocab_size))
        load_initial_weights(clips, config.model, config.freeze)
        self.clips = sharding.without_scalars(clips)
        if config.launch.compile:
            _compile(self.clips)
        chunk = config.launch.chunk_size
        self.in_chunks = chunk is not None and chunk < config.batch_size // self.ranks
        views = ImageSchedule(config, self.images.size, self.clips.config.vision.patch_size, dist.get_global_rank())
        weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
        self.model = ComposerClips(self.clips, weights, self.images, chunk, views)
        self.optimizer = adamw(self.clips, config.optimizer)
        final_share = config.optimizer.final_lr / config.optimizer.peak_lr
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(config.steps, config.warmup_steps, final_share))
        self.ema = EMA(half_life=f"{config.ema.half_life_batches}ba", update_interval="1ba") if config.ema else None

    def _loader(self) -> DataLoader[ClipsBatch]:
        config = self.config
        return train_loader(
            Path(self.spec.shards),
            "train",
            CaptionReader(config.captions, self.tokenizer, config.seed, config.method),
            self.images,
            global_batch_size=config.batch_size,
            rank=dist.get_global_rank(),
            world_size=self.ranks,
            workers=config.launch.loader_workers,
            seed=config.seed,
            window_samples=config.shuffle_window,
            prefetch_batches=config.launch.prefetch_batches,
            remote=self.remote,
        )

    def evaluated_model(self, state: State) -> ClipsModel:
        """The model to look at or export, whole: the moving average where there is one. Every rank must ask."""
        # When training ends Composer has put the averaged weights into the model itself.
        aside = self.ema if self.ema is not None and not self.ema.ema_weights_active else None
        wrapped = aside.get_ema_model(state.model) if aside is not None else state.model
        found: ClipsModel = getattr(wrapped, "module", wrapped).clips
        return sharding.whole_model(found)

    def retrieval(self, clips: ClipsModel) -> dict[str, float]:
        """Held-out retrieval; every rank must ask."""
        return measure_retrieval(
            clips,
            Path(self.spec.shards),
            "validation",
            self.tokenizer,
            self.images,
            remote=self.remote,
            group=torch.distributed.group.WORLD,
        )

    def caption_examples(self, clips: ClipsModel, step: int) -> tuple[dict[str, Any], bytes]:
        """Held-out pictures and what is written about them, as data and as a PNG."""
        shards, count = Path(self.spec.shards), self.config.every.caption_examples
        shown = caption_examples(clips, shards, "validation", self.tokenizer, self.images, count, remote=self.remote)
        return examples_to_mapping(shown[0], step), draw_examples(*shown, step)


def _resume(run: Run) -> checkpoint_store.Checkpoint | None:
    """The checkpoint to go on from, which fits; writes `start` and `changed`.

    Raises:
        ConfigError: it does not fit the run spec or the model, or all are damaged.
    """
    checkpoint_callback.load_weights_only()
    found = checkpoint_callback.find_checkpoint(run.spec.checkpoints, run.writer)
    changed: list[run_folder.Change] = []
    if found is not None:
        changed = run_folder.changes_since(found, run.spec, run.code)
        checkpoint_callback.check_compatible(found, run.model)
    if run.writer is not None:
        facts = start_facts(run.config, run.clips, run.tokenizer.vocab_size, run.spec.shards)
        run.writer.write("start", **facts, resumed_from=str(found.folder) if found else None)
        if found is not None and changed:
            values = {change.key: [change.before, change.now] for change in changed}
            run.writer.write("changed", step=found.step, values=values)
    return found


def _observers(run: Run, trace: SampleTrace, interrupt: Interrupt) -> list[Callback]:
    """Callbacks in the order in which Composer calls them: what ends the training comes before it is saved."""
    config, spec, writer = run.config, run.spec, run.writer
    logged, evaluated = every(config.every.log, config.steps), every(config.every.evaluate, config.steps)
    dataset = cast(TrainDataset, run.loader.dataset)
    folder = Path(spec.run_folder)
    captions = CaptionLog(writer, folder, evaluated, run.evaluated_model, run.caption_examples)
    interval, keep = f"{config.every.checkpoint}ba", config.every.keep_checkpoints
    return [
        *([sharding.ParameterGathering()] if run.in_chunks else []),
        DivergenceMonitor(lambda: checkpoint_store.newest(spec.checkpoints)),
        trace,
        DataWaitMonitor(writer, dataset.clock, dataset.shards.shards, config.launch.stall_warning_s, logged),
        SpeedMonitor(window_size=config.every.log),
        LRMonitor(),
        RetrievalCallback(evaluated, run.retrieval, run.evaluated_model),
        *([captions] if run.clips.captioner is not None and config.every.caption_examples else []),
        StopRequestMonitor(writer, interrupt, spec.stop_flag, logged),
        checkpoint_callback.CheckpointCallback(writer, spec.checkpoints, interval, keep, spec.text, run.code),
    ]


def _algorithms(run: Run) -> list[Algorithm]:
    config = run.config
    clip_norm = config.optimizer.clip_norm
    scheduled = config.progressive is not None or config.model.patch_dropout > 0
    return [
        *([ImageScheduleUpdate()] if scheduled else []),
        *([GradientClipping("norm", clip_norm)] if clip_norm is not None else []),
        LogitScaleClamp(every(config.every.log, config.steps)),
        *([run.ema] if run.ema is not None else []),
    ]


def _trainer(run: Run, checkpoint: checkpoint_store.Checkpoint | None, observers: list[Callback]) -> Trainer:
    config = run.config
    logged = every(config.every.log, config.steps)
    return Trainer(
        model=run.model,
        train_dataloader=DataSpec(run.loader, get_num_samples_in_batch=len, split_batch=_whole_batch),
        # Micro-batches would see only their own negatives: the loss would be another one.
        device_train_microbatch_size=config.batch_size // run.ranks,
        max_duration=f"{config.steps}ba",
        optimizers=run.optimizer,
        schedulers=run.schedule,
        step_schedulers_every_batch=True,
        algorithms=_algorithms(run),
        callbacks=observers,
        loggers=[EventLogger(run.writer, logged)] if run.writer is not None else [],
        parallelism_config=sharding.parallelism(config.launch.sharding, run.clips, in_chunks=run.in_chunks),
        device=run.device,
        precision=config.launch.precision,
        run_name=f"clips-{run.spec.fingerprint}",
        progress_bar=False,
        load_path=str(checkpoint.state) if checkpoint else None,
        load_progress_bar=False,
        seed=config.seed,
        dist_timeout=run.max_wait_s,
    )


def _export(run: Run, state: State, skipped: dict[str, int]) -> bool:
    """Write the model if all steps are done, and the `end` event; whether they are."""
    step = int(state.timestamp.batch)
    finished = step >= run.config.steps
    exported = run.evaluated_model(state) if finished else None
    if run.writer is not None:
        if exported is not None:
            folder = Path(run.spec.model_folder)
            save_model(exported, Path(run.spec.tokenizer), run.images.to_mapping(), folder)
        run.writer.write("end", step=step, finished=finished, skipped=skipped)
    return finished


def _patience_s(spec: RunSpec) -> float:
    """Seconds that ranks wait for each other in one operation."""
    # The others wait while one rank waits for a shard, and must not take it for dead before the storage gives up.
    far = any(is_remote(shard.path) for shards in load_index(Path(spec.shards)).splits.values() for shard in shards)
    return spec.train.launch.rank_timeout_s + (spec.storage.max_wait_s if far else 0.0)


def _whole_batch(batch: ClipsBatch, microbatch_size: int) -> list[ClipsBatch]:
    """Composer asks how to cut a batch; a contrastive batch is not cut."""
    if microbatch_size != len(batch):
        raise ConfigError(
            "micro-batches would shrink the contrastive loss's negatives; set train.launch.chunk_size, which saves the memory "
            "and keeps them"
        )
    return [batch]


def _use_gpu(device: str) -> bool:
    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.launch.device is 'gpu' but torch finds none; set it to 'auto' or 'cpu'")
    return device != "cpu" and torch.cuda.is_available()


def _compile(clips: ClipsModel) -> None:
    from clips_pipeline.models.compiled import compile_blocks

    try:
        compile_blocks(clips)
    except RuntimeError as error:
        raise ConfigError(f"train.launch.compile: {error}, or set train.launch.compile to false") from None
