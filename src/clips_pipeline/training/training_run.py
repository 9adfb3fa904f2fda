"""The parts of a training before Composer gets them: device, data, model, optimizer, schedule; and its evaluation."""

import json
import os
import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from composer.utils import dist, get_device
from torch.optim.lr_scheduler import LambdaLR

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.dataset import TrainDataset
from clips_pipeline.data.loading.joint_loader import TrainLoader
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.shards.index import Index, ShardEntry, check_shards, load_index
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.data.storage.urls import is_remote
from clips_pipeline.evaluation.inference.caption_examples import caption_examples, draw_examples, examples_to_mapping
from clips_pipeline.evaluation.inference.training_retrieval import measure_caption_loss, measure_retrieval
from clips_pipeline.losses.total import LossWeights
from clips_pipeline.models.blocks import keep_hidden_layers, recompute_blocks
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.precision import halve_stream
from clips_pipeline.models.rows.layout import step_layout
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.training import sharding
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule
from clips_pipeline.training.callbacks.moving_average import EMA
from clips_pipeline.training.communication import feature_dtype
from clips_pipeline.training.composer_model import ComposerClips
from clips_pipeline.training.events.event_log import EventWriter
from clips_pipeline.training.machine.cores import threads_of_rank
from clips_pipeline.training.machine.hidden_layers import keeps_hidden_layers
from clips_pipeline.training.machine.loader_workers import resolve_workers
from clips_pipeline.training.optimizer import make_optimizer
from clips_pipeline.training.resolve import check_captioners, image_config, model_config
from clips_pipeline.training.resume import run_folder
from clips_pipeline.training.resume.initial_weights import load_initial_weights
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec
from clips_pipeline.training.schedule import warmup_cosine


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
        self.code_files = run_folder.code_files()
        self.code = run_folder.code_digest(self.code_files)
        config = spec.train
        self.device = "gpu" if uses_gpu(config.launch.device) else "cpu"
        self.world_size = dist.get_world_size()
        self.index = load_index(Path(spec.shards))
        self.timeout_s = _collective_timeout_s(spec, self.index)
        if self.world_size > 1:
            # With a process group of one rank, Composer would run several all-reduces in every step.
            dist.initialize_dist(get_device(self.device), self.timeout_s)
        torch.set_num_threads(config.launch.threads or threads_of_rank())
        torch.manual_seed(config.seed)
        self.tokenizer: Tokenizer = load_tokenizer(Path(spec.tokenizer))
        self.images: ImageConfig = image_config(config)
        options = json.loads(os.environ.get(STORAGE_OPTIONS, "{}"))
        self.remote = ShardCache(Path(spec.shard_cache), Storage(spec.storage, options))
        self.resolved = model_config(config, self.tokenizer.vocab_size)
        chunk = config.launch.chunk_size
        self.uses_chunks = chunk is not None and chunk < config.batch_size // self.world_size
        self.workers = resolve_workers(
            config.launch.loader_workers,
            self.index.split("train"),
            on_gpu=self.device == "gpu",
        )
        self.loader = self._build_loader()
        clips = ClipsModel(self.resolved)
        load_initial_weights(clips, config.model, config.freeze)
        self.clips = sharding.reshape_scalars(clips)
        recompute_blocks(self.clips, config.launch.recomputation == "block")
        at_once = min(chunk or config.batch_size, config.batch_size // self.world_size)
        here, on_gpu = dist.get_local_world_size(), self.device == "gpu"
        keep_hidden_layers(
            self.clips, keeps_hidden_layers(config, self.resolved, at_once, ranks_here=here, on_gpu=on_gpu)
        )
        halve_stream(self.clips, config.launch.residual == "bf16")
        if config.launch.compiles(on_gpu=on_gpu):
            _compile(self.clips, on_gpu=on_gpu)
        image_schedule = ImageSchedule(
            config, self.images.size, self.clips.config.vision.patch_size, dist.get_global_rank()
        )
        weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
        sent_as = feature_dtype(config.launch.communication)
        self.model = ComposerClips(self.clips, weights, self.images, chunk, image_schedule, sent_as)
        self.optimizer = make_optimizer(self.clips, config.optimizer)
        final_fraction = config.optimizer.final_lr / config.optimizer.peak_lr
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(config.steps, config.warmup_steps, final_fraction))
        self.ema = EMA(half_life=f"{config.ema.half_life_batches}ba", update_interval="1ba") if config.ema else None

    def _build_loader(self) -> TrainLoader[TrainDataset]:
        config = self.config
        check_captioners(config.captions, Path(self.spec.shards))
        return train_loader(
            Path(self.spec.shards),
            "train",
            CaptionReader(config.captions, self.tokenizer, config.seed, config.method),
            self.images,
            global_batch_size=config.batch_size,
            rank=dist.get_global_rank(),
            world_size=self.world_size,
            workers=self.workers,
            seed=config.seed,
            window_samples=config.shuffle_window,
            prefetch_batches=config.launch.prefetch_batches,
            remote=self.remote,
            layout=partial(
                step_layout,
                self.resolved,
                chunk=config.launch.chunk_size if self.uses_chunks else None,
                multiple=config.launch.round_lengths_to,
            ),
            check=check_shards_together,
            colors_later=config.launch.device_color_jitter,
            for_gpu=self.device == "gpu",
        )

    def evaluated_model(self, state: State) -> ClipsModel:
        """Return the model to evaluate or export, unsharded: the moving average where there is one. The trained weights stay.

        A collective operation under FSDP2: every rank must call it.
        """
        clips: ClipsModel = getattr(state.model, "module", state.model).clips
        return sharding.full_model(clips, self.ema.averages() if self.ema is not None else {})

    def held_out(self, clips: ClipsModel) -> dict[str, float]:
        """Return held-out retrieval metrics, without a text tower the caption loss. Collective: every rank must call it."""
        measure = measure_caption_loss if clips.text is None else measure_retrieval
        return measure(
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


def check_shards_together(shards: Sequence[ShardEntry], folder: Path) -> None:
    """Refuse shards that do not match the index: the first rank of each machine looks, and tells the others.

    A collective operation. There may be 140,000 shards on a network file system, each a round trip.

    Args:
        shards: entries of the index.
        folder: folder of the index, of which each machine may have a copy.

    Raises:
        ConfigError: a local shard is missing or its size differs from the index, on any machine; the same on every rank.
    """
    failure: str | None = None
    if dist.get_local_rank() == 0:
        try:
            check_shards(shards, folder)
        except ConfigError as error:
            several = dist.get_local_world_size() < dist.get_world_size()
            failure = f"on machine {platform.node()}: {error}" if several else str(error)
    found: list[str | None] = dist.all_gather_object(failure)
    first = next((text for text in found if text is not None), None)
    if first is not None:
        raise ConfigError(first)


def _collective_timeout_s(spec: RunSpec, index: Index) -> float:
    """Return the seconds that ranks wait for each other in one collective operation."""
    # While one rank waits for a remote shard the others wait for it. They must not give up before the storage does.
    remote = any(is_remote(shard.path) for shards in index.splits.values() for shard in shards)
    return spec.train.launch.rank_timeout_s + (spec.storage.max_wait_s if remote else 0.0)


def uses_gpu(device: str) -> bool:
    """Return whether a training with this `train.launch.device` runs on a GPU.

    Raises:
        ConfigError: there is none, or fewer than ranks on this machine.
    """
    if device == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.launch.device: 'gpu', but torch finds none; set it to 'auto' or 'cpu'")
    if device == "cpu" or not torch.cuda.is_available():
        return False
    ranks, gpus = dist.get_local_world_size(), torch.cuda.device_count()
    if ranks > gpus:
        raise ConfigError(
            f"train.launch.processes: {ranks} ranks run on this machine, but each sees only {gpus} GPU(s), and rank N uses GPU N; "
            "start at most one rank per GPU, make all GPUs visible to every rank, or set train.launch.device to 'cpu' "
            "(torchrun and SLURM set the number of ranks themselves)"
        )
    return True


def _compile(clips: ClipsModel, *, on_gpu: bool) -> None:
    from clips_pipeline.models.compiled import compile_blocks, start_backward_threads

    if on_gpu:
        start_backward_threads()
    try:
        compile_blocks(clips)
    except RuntimeError as error:
        raise ConfigError(f"train.launch.compile: {error}, or set train.launch.compile to false") from None
