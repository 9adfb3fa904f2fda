"""One training in one rank: build, resume, run and export, with Composer's `Trainer`.

Does not import Kedro, MLflow or Optuna; it reports through the event log.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from composer import Trainer
from composer.algorithms import GradientClipping
from composer.callbacks import LRMonitor, SpeedMonitor
from composer.core import Algorithm, Callback, DataSpec, State
from composer.utils import dist

from clips_pipeline.config import ConfigError
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.interop.folder import save_model
from clips_pipeline.models.precision import allow_tf32
from clips_pipeline.training import sharding
from clips_pipeline.training.callbacks.caption_log import CaptionLog
from clips_pipeline.training.callbacks.data_wait import DataWaitMonitor
from clips_pipeline.training.callbacks.divergence import DivergenceMonitor
from clips_pipeline.training.callbacks.heartbeat import HeartbeatCallback
from clips_pipeline.training.callbacks.image_schedule import ImageScheduleUpdate
from clips_pipeline.training.callbacks.logit_scale import LogitScaleClamp
from clips_pipeline.training.callbacks.retrieval import RetrievalCallback
from clips_pipeline.training.callbacks.sample_trace import SampleTrace
from clips_pipeline.training.callbacks.stop_request import StopRequestMonitor
from clips_pipeline.training.communication import set_communication
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.events.event_logger import DueCheck, EventLogger, due_every
from clips_pipeline.training.events.surroundings import surroundings
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
from clips_pipeline.training.launch.interrupt import Interrupt
from clips_pipeline.training.resolve import start_facts
from clips_pipeline.training.resume import checkpoint_callback, checkpoint_store, run_folder
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.training.schedule import apply_current_rate
from clips_pipeline.training.training_run import TrainingRun


def train(spec: RunSpec, writer: EventWriter | None, heartbeat: HeartbeatWriter, interrupt: Interrupt) -> bool:
    """Train `spec` until it is finished, stopped or interrupted, and export the model if it is finished.

    Args:
        spec: what to train.
        writer: the event log on rank 0, None on other ranks.
        heartbeat: heartbeat of this rank; gets the step and the activity of this rank.
        interrupt: checked after every step.

    Returns:
        True if all steps are done and the model is exported; False if a stop was requested or an interrupt ended it early. An
        interrupt raises nothing here.

    Raises:
        ConfigError: the configuration does not fit the data or the machine, or no undamaged checkpoint is left.
        TrainingDivergedError: a loss became NaN or infinite.
        CannotWriteError: a disk is full or failed.
    """
    run = TrainingRun(spec, writer)
    checkpoint = _prepare_resume(run)
    is_log_step = due_every(spec.train.every.log, spec.train.steps)
    trace = SampleTrace(is_log_step)
    callbacks = [HeartbeatCallback(heartbeat), *_callbacks(run, trace, interrupt, is_log_step)]
    trainer = _build_trainer(run, checkpoint, callbacks, is_log_step)
    # `Trainer.close` has a barrier. A rank that failed must not wait for the others, which may still be in a step.
    with closing(trainer.engine):
        _fit(run, trainer)
        finished = _finish(run, trainer.state, dict(trace.skipped))
    dist.barrier()
    return finished


def _prepare_resume(run: TrainingRun) -> checkpoint_store.Checkpoint | None:
    """Choose and check the checkpoint to resume from, if there is one, and write the events `start` and `changed`.

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
        run_folder.keep_code_files(Path(run.spec.run_folder), run.code_files)
        here = dist.get_local_world_size()
        around = surroundings(run.device, run.world_size, here, torch.get_num_threads(), run.loader.workers)
        resumed_from = str(checkpoint.folder) if checkpoint else None
        run.writer.write("start", **facts, resumed_from=resumed_from, code=run.code, **around)
        if checkpoint is not None and changes:
            values = {change.key: [change.before, change.now] for change in changes}
            run.writer.write("changed", step=checkpoint.step, values=values)
    return checkpoint


def _callbacks(run: TrainingRun, trace: SampleTrace, interrupt: Interrupt, is_log_step: DueCheck) -> list[Callback]:
    """Return the callbacks.

    The order matters within `batch_end`: divergence is checked first, and an evaluation that is due runs before a stop.
    Checkpoints are saved afterwards, at `batch_checkpoint`.
    """
    config, spec, writer = run.config, run.spec, run.writer
    is_evaluation_step = due_every(config.every.evaluate, config.steps)
    dataset = run.loader.dataset
    folder = Path(spec.run_folder)
    captions = CaptionLog(writer, folder, is_evaluation_step, run.evaluated_model, run.caption_examples)
    interval, keep = f"{config.every.checkpoint}ba", config.every.keep_checkpoints
    checkpoints = checkpoint_callback.CheckpointCallback(
        writer, spec.checkpoints, interval, keep, spec.text, run.code, background=config.launch.background_checkpoints
    )

    def last_checkpoint() -> Path | None:
        checkpoints.settle()
        return checkpoint_store.latest_folder(spec.checkpoints)

    return [
        *([sharding.ParameterGathering()] if run.uses_chunks else []),
        DivergenceMonitor(last_checkpoint),
        trace,
        DataWaitMonitor(writer, dataset.clock, dataset.shards.entries, config.launch.stall_warning_s, is_log_step),
        SpeedMonitor(window_size=config.every.log),
        LRMonitor(),
        RetrievalCallback(is_evaluation_step, run.held_out, run.evaluated_model),
        *([captions] if run.clips.captioner is not None and config.every.caption_examples else []),
        StopRequestMonitor(writer, interrupt, spec.stop_flag, is_log_step, checkpoints),
        checkpoints,
    ]


def _algorithms(run: TrainingRun, is_log_step: DueCheck) -> list[Algorithm]:
    config = run.config
    clip_norm = config.optimizer.clip_norm
    model = config.model
    scheduled = config.progressive is not None or model.patch_dropout > 0 or model.image_tokens_kept < 1
    return [
        *([ImageScheduleUpdate()] if scheduled else []),
        *([GradientClipping("norm", clip_norm)] if clip_norm is not None else []),
        *([LogitScaleClamp(is_log_step)] if run.clips.text is not None else []),
        *([run.ema] if run.ema is not None else []),
    ]


def _build_trainer(
    run: TrainingRun,
    checkpoint: checkpoint_store.Checkpoint | None,
    callbacks: list[Callback],
    is_log_step: DueCheck,
) -> Trainer:
    config = run.config
    return Trainer(
        model=run.model,
        train_dataloader=DataSpec(run.loader, get_num_samples_in_batch=len, split_batch=_whole_batch),
        # One micro-batch per step: with more, each would see its own negatives only, which changes the loss.
        device_train_microbatch_size=config.batch_size // run.world_size,
        max_duration=f"{config.steps}ba",
        optimizers=run.optimizer,
        schedulers=run.schedule,
        step_schedulers_every_batch=True,
        algorithms=_algorithms(run, is_log_step),
        callbacks=callbacks,
        loggers=[EventLogger(run.writer, is_log_step)] if run.writer is not None else [],
        parallelism_config=sharding.parallelism_config(config.launch, run.clips, uses_chunks=run.uses_chunks),
        device=run.device,
        precision=config.launch.precision,
        run_name=f"clips-{run.spec.fingerprint}",
        progress_bar=False,
        load_path=str(checkpoint.state) if checkpoint else None,
        load_ignore_keys=without_scaler,
        load_progress_bar=False,
        seed=config.seed,
        dist_timeout=run.timeout_s,
    )


def without_scaler(checkpoint: dict[str, Any]) -> None:
    """Remove the state of the gradient scaler, which float16 alone needs: without a GPU it is empty, which a GPU's refuses."""
    checkpoint["state"].pop("scaler", None)


def _fit(run: TrainingRun, trainer: Trainer) -> None:
    """Run the remaining steps."""
    launch = run.config.launch
    sharding.check_sharded(launch.sharding, run.clips, uses_chunks=run.uses_chunks)
    set_communication(trainer.state.model, launch, uses_chunks=run.uses_chunks)
    # Composer allows TF32 on every GPU, whatever the configuration says.
    allow_tf32(launch.tf32)
    # A run whose length was changed resumes at the rate of its new schedule; otherwise this sets the saved rate again.
    apply_current_rate(run.schedule)
    if int(trainer.state.timestamp.batch) < run.config.steps:
        trainer.fit()


def _finish(run: TrainingRun, state: State, skipped: dict[str, int]) -> bool:
    """Export the model if all steps are done, and write the `end` event. Return whether all steps are done."""
    step = int(state.timestamp.batch)
    finished = step >= run.config.steps
    exported = run.evaluated_model(state) if finished else None
    if run.writer is not None:
        if exported is not None:
            folder = Path(run.spec.model_folder)
            save_model(exported, Path(run.spec.tokenizer), run.images.to_mapping(), folder)
        run.writer.write("end", step=step, finished=finished, skipped=skipped)
    return finished


def _whole_batch(batch: ClipsBatch, microbatch_size: int) -> list[ClipsBatch]:
    """Return the batch as its only micro-batch; a contrastive batch must not be split."""
    if microbatch_size != len(batch):
        raise ConfigError(
            "micro-batches would shrink the contrastive loss's negatives; set train.launch.chunk_size, which saves the memory "
            "and keeps them"
        )
    return [batch]
