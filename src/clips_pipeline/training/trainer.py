"""One training in one rank: build, resume, run and export, with Composer's `Trainer`.

Knows nothing of Kedro, MLflow or Optuna; it reports through the event log.
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


def train(spec: RunSpec, writer: EventWriter | None, heartbeat: HeartbeatWriter, interrupt: Interrupt) -> bool:
    """Train `spec` until it is finished, stopped or interrupted, and export the model if it is finished.

    Args:
        spec: what to train.
        writer: the event log on rank 0, None on other ranks.
        heartbeat: heartbeat of this rank; gets the phase of every step.
        interrupt: checked after every step.

    Returns:
        Whether the training is finished.

    Raises:
        ConfigError: the configuration does not fit the data or the machine.
        TrainingDivergedError: a loss became NaN or infinite.
        CannotWriteError: a disk is full or failed.
    """
    run = TrainingRun(spec, writer)
    checkpoint = _find_checkpoint(run)
    trace = SampleTrace(every(spec.train.every.log, spec.train.steps))
    trainer = _build_trainer(run, checkpoint, [HeartbeatCallback(heartbeat), *_callbacks(run, trace, interrupt)])
    # Not `trainer.close`, which waits for all ranks: a rank that fails must not wait for ranks that do not.
    with closing(trainer.engine):
        _fit(run, trainer)
        finished = _export(run, trainer.state, dict(trace.skipped))
    dist.barrier()
    return finished


class TrainingRun:
    """The parts of a training that Composer's `Trainer` gets: device, data, model, optimizer, schedule.

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
        self.world_size = dist.get_world_size()
        torch.set_num_threads(config.launch.threads or max(1, (os.cpu_count() or 1) // dist.get_local_world_size()))
        self.timeout_s = _collective_timeout_s(spec)
        if self.world_size > 1:
            # With a process group of one rank, Composer would run several all-reduces in every step.
            dist.initialize_dist(get_device(self.device), self.timeout_s)
        torch.manual_seed(config.seed)
        self.tokenizer: Tokenizer = load_tokenizer(Path(spec.tokenizer))
        self.images: ImageConfig = image_config(config)
        options = json.loads(os.environ.get(STORAGE_OPTIONS, "{}"))
        self.remote = ShardCache(Path(spec.shard_cache), Storage(spec.storage, options))
        self.loader = self._build_loader()
        clips = ClipsModel(model_config(config, self.tokenizer.vocab_size))
        load_initial_weights(clips, config.model, config.freeze)
        self.clips = sharding.reshape_logit_scale(clips)
        if config.launch.compile:
            _compile(self.clips)
        chunk = config.launch.chunk_size
        self.in_chunks = chunk is not None and chunk < config.batch_size // self.world_size
        image_schedule = ImageSchedule(
            config, self.images.size, self.clips.config.vision.patch_size, dist.get_global_rank()
        )
        weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
        self.model = ComposerClips(self.clips, weights, self.images, chunk, image_schedule)
        self.optimizer = adamw(self.clips, config.optimizer)
        final_fraction = config.optimizer.final_lr / config.optimizer.peak_lr
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(config.steps, config.warmup_steps, final_fraction))
        self.ema = EMA(half_life=f"{config.ema.half_life_batches}ba", update_interval="1ba") if config.ema else None

    def _build_loader(self) -> DataLoader[ClipsBatch]:
        config = self.config
        return train_loader(
            Path(self.spec.shards),
            "train",
            CaptionReader(config.captions, self.tokenizer, config.seed, config.method),
            self.images,
            global_batch_size=config.batch_size,
            rank=dist.get_global_rank(),
            world_size=self.world_size,
            workers=config.launch.loader_workers,
            seed=config.seed,
            window_samples=config.shuffle_window,
            prefetch_batches=config.launch.prefetch_batches,
            remote=self.remote,
        )

    def evaluated_model(self, state: State) -> ClipsModel:
        """Return the model to evaluate or export, unsharded: the moving average where there is one.

        A collective operation under FSDP2: every rank must call it.
        """
        # At the end of the training, Composer has already copied the averaged weights into the model.
        ema = self.ema if self.ema is not None and not self.ema.ema_weights_active else None
        wrapped = ema.get_ema_model(state.model) if ema is not None else state.model
        clips: ClipsModel = getattr(wrapped, "module", wrapped).clips
        return sharding.full_model(clips)

    def retrieval(self, clips: ClipsModel) -> dict[str, float]:
        """Return held-out retrieval metrics. A collective operation: every rank must call it."""
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
        """Return held-out images with the captions that the model writes, as data and as a PNG."""
        shards, count = Path(self.spec.shards), self.config.every.caption_examples
        found = caption_examples(clips, shards, "validation", self.tokenizer, self.images, count, remote=self.remote)
        return examples_to_mapping(found[0], step), draw_examples(*found, step)


def _find_checkpoint(run: TrainingRun) -> checkpoint_store.Checkpoint | None:
    """Return the checkpoint to resume from, after all checks, or None. Writes the events `start` and `changed`.

    Raises:
        ConfigError: the checkpoint does not fit the run spec or the model, or all checkpoints are damaged.
    """
    checkpoint_callback.force_weights_only_loading()
    checkpoint = checkpoint_callback.find_checkpoint(run.spec.checkpoints, run.writer)
    changes: list[run_folder.ParameterChange] = []
    if checkpoint is not None:
        changes = run_folder.changes_since(checkpoint, run.spec, run.code)
        checkpoint_callback.check_compatible(checkpoint, run.model)
    if run.writer is not None:
        facts = start_facts(run.config, run.clips, run.tokenizer.vocab_size, run.spec.shards)
        run.writer.write("start", **facts, resumed_from=str(checkpoint.folder) if checkpoint else None)
        if checkpoint is not None and changes:
            values = {change.key: [change.before, change.now] for change in changes}
            run.writer.write("changed", step=checkpoint.step, values=values)
    return checkpoint


def _callbacks(run: TrainingRun, trace: SampleTrace, interrupt: Interrupt) -> list[Callback]:
    """Return the callbacks in the order in which Composer calls them: those that stop the training come before the saving one."""
    config, spec, writer = run.config, run.spec, run.writer
    is_log_step, is_evaluation_step = every(config.every.log, config.steps), every(config.every.evaluate, config.steps)
    dataset = cast(TrainDataset, run.loader.dataset)
    folder = Path(spec.run_folder)
    captions = CaptionLog(writer, folder, is_evaluation_step, run.evaluated_model, run.caption_examples)
    interval, keep = f"{config.every.checkpoint}ba", config.every.keep_checkpoints
    return [
        *([sharding.ParameterGathering()] if run.in_chunks else []),
        DivergenceMonitor(lambda: checkpoint_store.latest_folder(spec.checkpoints)),
        trace,
        DataWaitMonitor(writer, dataset.clock, dataset.shards.shards, config.launch.stall_warning_s, is_log_step),
        SpeedMonitor(window_size=config.every.log),
        LRMonitor(),
        RetrievalCallback(is_evaluation_step, run.retrieval, run.evaluated_model),
        *([captions] if run.clips.captioner is not None and config.every.caption_examples else []),
        StopRequestMonitor(writer, interrupt, spec.stop_flag, is_log_step),
        checkpoint_callback.CheckpointCallback(writer, spec.checkpoints, interval, keep, spec.text, run.code),
    ]


def _algorithms(run: TrainingRun) -> list[Algorithm]:
    config = run.config
    clip_norm = config.optimizer.clip_norm
    scheduled = config.progressive is not None or config.model.patch_dropout > 0
    return [
        *([ImageScheduleUpdate()] if scheduled else []),
        *([GradientClipping("norm", clip_norm)] if clip_norm is not None else []),
        LogitScaleClamp(every(config.every.log, config.steps)),
        *([run.ema] if run.ema is not None else []),
    ]


def _build_trainer(
    run: TrainingRun, checkpoint: checkpoint_store.Checkpoint | None, callbacks: list[Callback]
) -> Trainer:
    config = run.config
    is_log_step = every(config.every.log, config.steps)
    return Trainer(
        model=run.model,
        train_dataloader=DataSpec(run.loader, get_num_samples_in_batch=len, split_batch=_whole_batch),
        # One micro-batch per step: with more, each would see its own negatives only, which changes the loss.
        device_train_microbatch_size=config.batch_size // run.world_size,
        max_duration=f"{config.steps}ba",
        optimizers=run.optimizer,
        schedulers=run.schedule,
        step_schedulers_every_batch=True,
        algorithms=_algorithms(run),
        callbacks=callbacks,
        loggers=[EventLogger(run.writer, is_log_step)] if run.writer is not None else [],
        parallelism_config=sharding.parallelism_config(config.launch.sharding, run.clips, in_chunks=run.in_chunks),
        device=run.device,
        precision=config.launch.precision,
        run_name=f"clips-{run.spec.fingerprint}",
        progress_bar=False,
        load_path=str(checkpoint.state) if checkpoint else None,
        load_progress_bar=False,
        seed=config.seed,
        dist_timeout=run.timeout_s,
    )


def _fit(run: TrainingRun, trainer: Trainer) -> None:
    """Run the remaining steps."""
    sharding.check_sharded(run.config.launch.sharding, run.clips, in_chunks=run.in_chunks)
    # A run whose length was changed resumes at the rate of its new schedule; else this is the rate that was saved.
    apply_current_rate(run.schedule)
    if int(trainer.state.timestamp.batch) < run.config.steps:
        trainer.fit()


def _export(run: TrainingRun, state: State, skipped: dict[str, int]) -> bool:
    """Write the model if all steps are done, and the `end` event. Return whether all steps are done."""
    step = int(state.timestamp.batch)
    finished = step >= run.config.steps
    exported = run.evaluated_model(state) if finished else None
    if run.writer is not None:
        if exported is not None:
            folder = Path(run.spec.model_folder)
            save_model(exported, Path(run.spec.tokenizer), run.images.to_mapping(), folder)
        run.writer.write("end", step=step, finished=finished, skipped=skipped)
    return finished


def _collective_timeout_s(spec: RunSpec) -> float:
    """Return the seconds that ranks wait for each other in one collective operation."""
    # While one rank waits for a remote shard the others wait for it. They must not give up before the storage does.
    remote = any(is_remote(shard.path) for shards in load_index(Path(spec.shards)).splits.values() for shard in shards)
    return spec.train.launch.rank_timeout_s + (spec.storage.max_wait_s if remote else 0.0)


def _whole_batch(batch: ClipsBatch, microbatch_size: int) -> list[ClipsBatch]:
    """Return the batch as its only micro-batch; a contrastive batch must not be split."""
    if microbatch_size != len(batch):
        raise ConfigError(
            "micro-batches would shrink the contrastive loss's negatives; set train.launch.chunk_size, which saves the memory "
            "and keeps them"
        )
    return [batch]


def _use_gpu(device: str) -> bool:
    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.launch.device: 'gpu', but torch finds none; set it to 'auto' or 'cpu'")
    return device != "cpu" and torch.cuda.is_available()


def _compile(clips: ClipsModel) -> None:
    from clips_pipeline.models.compiled import compile_blocks

    try:
        compile_blocks(clips)
    except RuntimeError as error:
        raise ConfigError(f"train.launch.compile: {error}, or set train.launch.compile to false") from None
