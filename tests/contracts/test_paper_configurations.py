"""Configurations of the paper's sizes: they build, equal docs/explanation/method.md, and train when scaled down."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from kedro.config import OmegaConfigLoader

from clips_pipeline.config import from_mapping
from clips_pipeline.data.loading.batch import ClipsBatch
from clips_pipeline.losses.total import LossWeights
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import ClipsConfig
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.settings import CONFIG_LOADER_ARGS
from clips_pipeline.training.callbacks.image_schedule import ImageSchedule
from clips_pipeline.training.composer_model import ComposerClips
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.optimizer import adamw
from clips_pipeline.training.resolve import image_config, model_config
from clips_pipeline.training.schedule import warmup_cosine

SIZES = ["s16", "b16", "l16", "l14", "h14"]
ENVIRONMENTS = [*SIZES, "l14-336", "h14-336"]

# Resolution, global batch, samples, warm-up samples, peak learning rate: the columns of docs/explanation/method.md.
ABLATION = (112, 32_768, 2_560_000_000, 25_600_000, 1.024e-3)
STAGE_1 = (84, 32_768, 12_800_000_000, 51_200_000, 1.024e-3)
STAGE_2 = (224, 16_384, 1_024_000_000, 25_600_000, 2.56e-5)
STAGE_3 = (336, 8_192, 256_000_000, 0, 3.2e-6)

# Patch size, samples, global batch, vision width: the table of docs/how-to/reproduce.md.
REPRODUCED = {
    "cc3m-b32": (32, 32 * 2_823_019, 1_024, 768),
    "cc3m-b16": (16, 32 * 2_823_019, 1_024, 768),
    "cc12m-b16": (16, 32 * 10_010_225, 4_096, 768),
}


def stages(repository: Path, environment: str) -> list[TrainConfig]:
    """Return the pre-training and fine-tuning configurations of an environment."""
    loader = OmegaConfigLoader(conf_source=str(repository / "conf"), env=environment, **CONFIG_LOADER_ARGS)
    parameters: dict[str, Any] = loader["parameters"]
    stage = typed("finetune", parameters["finetune"]).parameters(parameters["train"], "")
    return [from_mapping(TrainConfig, mapping, "train") for mapping in (parameters["train"], stage)]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_recipes_equal_docs_method(repository: Path, environment: str) -> None:
    found = [
        (
            config.model.image_size,
            config.batch_size,
            config.samples,
            config.optimizer.warmup_samples,
            config.optimizer.peak_lr,
        )
        for config in stages(repository, environment)
    ]
    first = ABLATION if environment.endswith("16") else STAGE_1
    assert found == [first, STAGE_3 if environment.endswith("-336") else STAGE_2]
    for config in stages(repository, environment):
        assert config.optimizer.final_lr == 0.0
        assert config.optimizer.weight_decay == 0.2
        assert config.model.padding == "attend"
        assert config.augment.crop_area == (0.4, 1.0)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_models_build_and_stages_have_the_same_weights(repository: Path, environment: str) -> None:
    shapes = []
    for config in stages(repository, environment):
        built = model_config(config, 30_522)
        with torch.device("meta"):
            model = ClipsModel(built)
        assert built.vision.image_size == image_config(config).size == config.model.image_size
        shapes.append({name: tuple(parameter.shape) for name, parameter in model.state_dict().items()})
    assert shapes[0] == shapes[1]


def shrunk(config: ClipsConfig) -> ClipsConfig:
    """Return the same configuration with small widths, depths and vocabulary."""
    assert config.captioner is not None
    small = {"width": 32, "depth": 2, "heads": 2}
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, **small),
        text=dataclasses.replace(config.text, vocab_size=200, **small),
        captioner=dataclasses.replace(config.captioner, vocab_size=200, **small),
        embed_dim=32,
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_two_steps_of_a_scaled_down_copy(repository: Path, environment: str) -> None:
    torch.manual_seed(0)
    state = None
    for config in stages(repository, environment):
        images = image_config(config)
        model = ClipsModel(shrunk(model_config(config, 200)))
        if state is not None:
            # Only weights are passed to the next resolution.
            model.load_state_dict(state)
        weights = LossWeights(config.loss.contrastive_weight, config.loss.caption_weight)
        wrapped = ComposerClips(
            model, weights, images, None, ImageSchedule(config, images.size, model.config.vision.patch_size)
        )
        optimizer = adamw(model, dataclasses.replace(config.optimizer, peak_lr=1e-4))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(4, 1, 0.0))
        generator = torch.Generator().manual_seed(1)

        def ids(length: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randint(3, 200, (2, length), generator=generator)

        batch = ClipsBatch(
            torch.randint(0, 256, (2, 3, images.size, images.size), generator=generator, dtype=torch.uint8),
            ids(config.captions.context_length),
            ids(config.captions.context_length),
            ids(config.captions.target_length),
            ["a", "b"],
        )
        losses = []
        for step in range(3):
            wrapped.step = step
            total = wrapped.loss(wrapped(batch), batch)["total"]
            losses.append(float(total))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            schedule.step()
        # The first step of a warm-up has a learning rate of 0.
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        assert losses[2] < losses[1]
        state = model.state_dict()


@pytest.mark.parametrize("environment", REPRODUCED)
def test_recipes_of_conceptual_captions_equal_docs_reproduce(repository: Path, environment: str) -> None:
    config, _ = stages(repository, environment)
    built = model_config(config, 30_522)
    found = (built.vision.patch_size, config.samples, config.batch_size, built.vision.width)
    assert found == REPRODUCED[environment]
    assert built.vision.image_size == 224
    optimizer = config.optimizer
    assert optimizer.warmup_samples == 2_000 * config.batch_size
    assert (optimizer.peak_lr, optimizer.final_lr) == (5e-4, 0.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.98, 1e-8, 0.5)
    assert config.augment.crop_area == (0.4, 1.0)
    with torch.device("meta"):
        ClipsModel(built)
