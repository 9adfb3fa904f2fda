"""The training itself, in the process that `training.rank` is.

Knows no Kedro, MLflow or Optuna. Resumes from the newest complete checkpoint if there is one, trains, exports the model, and
reports through the event log.
"""

import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from composer import Trainer
from composer.algorithms import EMA
from composer.core import DataSpec, State
from composer.utils import dist, get_device
from torch.optim.lr_scheduler import LambdaLR

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.caption_examples import as_mapping, caption_examples, draw
from clips_pipeline.evaluation.quick import quick_retrieval
from clips_pipeline.interop.folder import save_model
from clips_pipeline.losses.total import LossWeights
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.shards.addresses import is_remote
from clips_pipeline.shards.batch import ClipsBatch
from clips_pipeline.shards.cache import ShardCache
from clips_pipeline.shards.dataset import TrainDataset
from clips_pipeline.shards.index import load_index
from clips_pipeline.shards.loader import train_loader
from clips_pipeline.shards.storage import Storage
from clips_pipeline.text.captions import CaptionReader
from clips_pipeline.text.tokenizer import load_tokenizer
from clips_pipeline.training import callbacks, checkpoints, run_folder, saving, sharding
from clips_pipeline.training.caption_log import CaptionLog
from clips_pipeline.training.composer_model import ComposerClips
from clips_pipeline.training.data_wait import DataWait
from clips_pipeline.training.events import EventWriter
from clips_pipeline.training.interrupt import Interrupt
from clips_pipeline.training.life import TellLife
from clips_pipeline.training.optimizer import adamw
from clips_pipeline.training.resolve import image_config, model_config, start_facts
from clips_pipeline.training.retrieval_probe import RetrievalProbe
from clips_pipeline.training.schedule import at_present, warmup_cosine
from clips_pipeline.training.signs import LifeSign
from clips_pipeline.training.spec import STORAGE_OPTIONS, RunSpec
from clips_pipeline.training.starting import fill
from clips_pipeline.training.together import Together
from clips_pipeline.training.views import TellStep, Views


def train(spec: RunSpec, writer: EventWriter | None, life: LifeSign, interrupt: Interrupt) -> bool:
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
    config = spec.train
    on_gpu = _use_gpu(config.launch.device)
    cores = os.cpu_count() or 1
    torch.set_num_threads(config.launch.threads or max(1, cores // dist.get_local_world_size()))
    patience_s = _patience_s(spec)
    dist.initialize_dist(get_device("gpu" if on_gpu else "cpu"), patience_s)
    torch.manual_seed(config.seed)

    tokenizer = load_tokenizer(Path(spec.tokenizer))
    images = image_config(config)
    remote = ShardCache(
        Path(spec.shard_cache), Storage(spec.storage, json.loads(os.environ.get(STORAGE_OPTIONS, "{}")))
    )
    loader = train_loader(
        Path(spec.shards),
        "train",
        CaptionReader(config.captions, tokenizer, config.seed, config.method),
        images,
        global_batch_size=config.batch_size,
        rank=dist.get_global_rank(),
        world_size=dist.get_world_size(),
        workers=config.launch.loader_workers,
        seed=config.seed,
        remote=remote,
    )
    clips = ClipsModel(model_config(config, tokenizer.vocab_size))
    fill(clips, config.model, config.freeze)
    clips = sharding.without_scalars(clips)
    if config.launch.compile:
        _compile(clips)
    weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
    views = Views(config, images.size, clips.config.vision.patch_size, dist.get_global_rank())
    model = ComposerClips(clips, weights, images, config.launch.chunk_size, views)
    optimizer = adamw(clips, config.optimizer)
    optimizer_schedule = warmup_cosine(
        config.steps, config.warmup_steps, config.optimizer.final_lr / config.optimizer.peak_lr
    )

    saving.load_weights_only()
    schedule = LambdaLR(optimizer, optimizer_schedule)
    resume_from = saving.to_resume(spec.checkpoints, writer)
    changed: list[run_folder.Change] = []
    if resume_from is not None:
        changed = run_folder.resumed_with(resume_from, spec)
        saving.check_fits(resume_from, model)
    if writer is not None:
        facts = start_facts(config, clips, tokenizer.vocab_size, spec.shards)
        writer.write("start", **facts, resumed_from=str(resume_from.folder) if resume_from else None)
        if resume_from is not None and changed:
            values = {change.key: [change.before, change.now] for change in changed}
            writer.write("changed", step=resume_from.step, values=values)

    chunk = config.launch.chunk_size
    in_chunks = chunk is not None and chunk < config.batch_size // dist.get_world_size()
    clip_norm = config.optimizer.clip_norm
    algorithms = []
    ema = EMA(half_life=f"{config.ema.half_life_batches}ba", update_interval="1ba") if config.ema else None
    if ema is not None:
        algorithms.append(ema)

    def best_model(state: State) -> ClipsModel:
        # When training ends Composer has put the averaged weights into the model itself.
        aside = ema if ema is not None and not ema.ema_weights_active else None
        wrapped = aside.get_ema_model(state.model) if aside is not None else state.model
        found: ClipsModel = getattr(wrapped, "module", wrapped).clips
        return found

    def newest() -> Path | None:
        return checkpoints.newest(spec.checkpoints)

    def probe(found: ClipsModel) -> dict[str, float]:
        return quick_retrieval(
            sharding.whole_model(found),
            Path(spec.shards),
            "validation",
            tokenizer,
            images,
            remote=remote,
            group=torch.distributed.group.WORLD,
        )

    def show(found: ClipsModel, step: int) -> tuple[dict[str, Any], bytes]:
        count = config.every.caption_examples
        shown = caption_examples(found, Path(spec.shards), "validation", tokenizer, images, count, remote=remote)
        return as_mapping(shown[0], step), draw(*shown, step)

    captions = CaptionLog(
        writer,
        Path(spec.run_folder),
        config.every.evaluate,
        config.steps,
        lambda state: sharding.whole_model(best_model(state)),
        show,
    )
    last = f"{config.steps}ba"
    dataset = cast(TrainDataset, loader.dataset)
    data_wait = DataWait(writer, dataset.clock, dataset.shards.shards, config.launch.stall_warning_s)
    step_log = callbacks.StepLog(writer, config.every.log, config.steps, spec.stop_flag, newest, data_wait.share)
    observers = [
        TellLife(life),
        *([sharding.GatheredSteps()] if in_chunks else []),
        *([sharding.ClipGradients(clip_norm)] if clip_norm is not None else []),
        callbacks.ClampLogitScale(),
        callbacks.EpochOrder(),
        TellStep(),
        data_wait,
        step_log,
        RetrievalProbe(writer, config.every.evaluate, config.steps, probe, best_model),
        *([captions] if clips.captioner is not None and config.every.caption_examples else []),
        callbacks.StopWhenInterrupted(writer, interrupt),
        saving.SaveCheckpoints(
            writer, spec.checkpoints, config.every.checkpoint, config.every.keep_checkpoints, spec.text
        ),
    ]
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(loader, get_num_samples_in_batch=len, split_batch=_whole_batch),
        # Micro-batches would see only their own negatives: the loss would be another one.
        device_train_microbatch_size=config.batch_size // dist.get_world_size(),
        max_duration=last,
        optimizers=optimizer,
        schedulers=schedule,
        step_schedulers_every_batch=True,
        algorithms=algorithms,
        callbacks=Together(observers),
        parallelism_config=sharding.parallelism(config.launch.sharding, clips, in_chunks=in_chunks),
        device="gpu" if on_gpu else "cpu",
        precision=config.launch.precision,
        run_name=f"clips-{spec.fingerprint}",
        progress_bar=False,
        load_path=str(resume_from.state) if resume_from else None,
        load_progress_bar=False,
        seed=config.seed,
        dist_timeout=patience_s,
    )
    sharding.check(config.launch.sharding, clips, in_chunks=in_chunks)
    if dist.get_world_size() == 1:
        # Composer sums over its group several times in a step, also where it has one rank. (Without the group it would not, but
        # gloo's sometimes never ends when it is destroyed.)
        dist.all_reduce = _sum_of_one
    # A run of another length goes on at the rate of its new schedule; without a change it is the rate that was saved.
    at_present(schedule)
    if int(trainer.state.timestamp.batch) < config.steps:
        trainer.fit()

    step = int(trainer.state.timestamp.batch)
    finished = step >= config.steps
    exported = sharding.whole_model(best_model(trainer.state)) if finished else None
    if writer is not None:
        if exported is not None:
            save_model(exported, Path(spec.tokenizer), images.to_mapping(), Path(spec.model_folder))
        writer.write("end", step=step, finished=finished, skipped=dict(step_log.skipped))
    dist.barrier()
    trainer.close()
    return finished


def _sum_of_one(tensor: torch.Tensor, reduce_operation: str = "SUM", group: object = None) -> None:
    """What is summed over one rank stays as it is; the place of `composer.utils.dist.all_reduce`."""


def _patience_s(spec: RunSpec) -> float:
    """Seconds that ranks wait for each other in one operation."""
    # The others wait while one rank waits for a shard, and must not take it for dead before the storage gives up.
    far = any(is_remote(shard.path) for shards in load_index(Path(spec.shards)).splits.values() for shard in shards)
    return spec.train.launch.rank_timeout_s + (spec.storage.patience_s if far else 0.0)


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
