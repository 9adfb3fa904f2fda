"""Initial weights: earlier stages, open_clip's towers, frozen parts, and errors."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.interop.folder import save_model
from clips_pipeline.interop.open_clip import to_state_dict
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import SIZES, CaptionerConfig, ClipsConfig, TextConfig, VisionConfig
from clips_pipeline.training.config import ModelConfig, OptimizerConfig
from clips_pipeline.training.finetune import FinetuneConfig, merge
from clips_pipeline.training.optimizer import adamw
from clips_pipeline.training.resume.initial_weights import keep_copy, load_initial_weights

SMALL = ClipsConfig(
    vision=VisionConfig(image_size=32, patch_size=16, width=64, depth=1, heads=1),
    text=TextConfig(vocab_size=120, width=64, depth=1, heads=1, context_length=80, padding="attend"),
    captioner=CaptionerConfig(vocab_size=120, width=64, depth=1, heads=1, queries=128),
    embed_dim=64,
)


def model(seed: int, image_size: int = 32) -> ClipsModel:
    torch.manual_seed(seed)
    return ClipsModel(dataclasses.replace(SMALL, vision=dataclasses.replace(SMALL.vision, image_size=image_size)))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def exported(tmp_path: Path, tokenizer: Path) -> Path:
    return save_model(model(0), tokenizer, {}, tmp_path / "exported")


def test_copies_are_named_by_content(exported: Path, tokenizer: Path, tmp_path: Path) -> None:
    kept = keep_copy(exported, tmp_path / "store", tokenizer)
    assert keep_copy(exported, tmp_path / "store", tokenizer) == kept
    save_model(model(1), tokenizer, {}, exported)
    other = keep_copy(exported, tmp_path / "store", tokenizer)
    assert other != kept
    # The first copy is unchanged.
    found = model(2)
    load_initial_weights(found, ModelConfig(initial_weights=str(kept)))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model(0).parameters(), strict=True))


def test_a_higher_resolution_takes_the_weights_and_its_own_positions(exported: Path) -> None:
    found = model(1, image_size=64)
    load_initial_weights(found, ModelConfig(initial_weights=str(exported)))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model(0).parameters(), strict=True))
    assert found.vision.embed(torch.zeros(1, 3, 64, 64)).shape == (1, 17, 64)


@pytest.mark.parametrize("kinds", [("softmax", "sigmoid"), ("sigmoid", "softmax"), ("sigmoid", "sigmoid")])
def test_scale_and_bias_are_those_of_the_same_loss_only(
    tokenizer: Path, tmp_path: Path, kinds: tuple[Literal["softmax", "sigmoid"], Literal["softmax", "sigmoid"]]
) -> None:
    before, now = (ClipsModel(dataclasses.replace(SMALL, contrastive=kind)) for kind in kinds)
    with torch.no_grad():
        before.logit_scale.fill_(4.0)
        if before.logit_bias is not None:
            before.logit_bias.fill_(-3.0)
    folder = save_model(before, tokenizer, {}, tmp_path / "before")
    fresh = {name: float(now.state_dict()[name]) for name in ("logit_scale", "logit_bias") if name in now.state_dict()}
    load_initial_weights(now, ModelConfig(initial_weights=str(folder)))
    assert torch.equal(now.vision.head.weight, before.vision.head.weight)
    found = {name: float(now.state_dict()[name]) for name in fresh}
    assert found == ({"logit_scale": 4.0, "logit_bias": -3.0} if kinds[0] == kinds[1] else fresh)


def test_a_vision_tower_alone_takes_that_of_a_checkpoint(tmp_path: Path) -> None:
    assert SMALL.captioner is not None
    captioner = dataclasses.replace(SMALL.captioner, inputs="tokens")
    alone = ClipsModel(dataclasses.replace(SMALL, captioner=captioner, text_tower=False))
    save_file(to_state_dict(model(5)), tmp_path / "towers.safetensors")
    load_initial_weights(alone, ModelConfig(vision_weights=str(tmp_path / "towers.safetensors")))
    assert torch.equal(alone.vision.blocks[0].mlp.c_fc.weight, model(5).vision.blocks[0].mlp.c_fc.weight)


def test_another_tokenizer_is_refused(exported: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tokenizer / "vocab.txt").write_text("a\nc\n")
    with pytest.raises(ConfigError, match=r"initial_weights: .*trained with another tokenizer"):
        keep_copy(exported, tmp_path / "store", tokenizer)


def test_a_missing_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.model\.initial_weights: .*does not exist; give the folder"):
        keep_copy(tmp_path / "nowhere", tmp_path / "store", tokenizer)


def test_a_model_of_another_shape_is_refused(exported: Path) -> None:
    found = ClipsModel(dataclasses.replace(SMALL, captioner=None))
    with pytest.raises(ConfigError, match=r"initial_weights: .*does not fit train\.model\.size and train\.method"):
        load_initial_weights(found, ModelConfig(initial_weights=str(exported)))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("part", ["vision", "text"])
def test_one_tower_of_an_open_clip_checkpoint(prefix: str, part: str, tmp_path: Path) -> None:
    source = model(7)
    path = tmp_path / "weights.safetensors"
    save_file({prefix + name: tensor for name, tensor in to_state_dict(source).items()}, path)
    found, before = model(1, image_size=64), model(1)
    load_initial_weights(found, from_mapping(ModelConfig, {f"{part}_weights": str(path)}, "train.model"))
    for name, parameter in found.named_parameters():
        expected = source if name.startswith(part) else before
        assert torch.equal(parameter, expected.get_parameter(name)), name


def test_unusable_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ConfigError, match=r"train\.model\.vision_weights: .*does not exist"):
        load_initial_weights(model(0), ModelConfig(vision_weights=str(path)))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=r"train\.model\.text_weights: .*cannot be read as tensors"):
        load_initial_weights(model(0), ModelConfig(text_weights=str(path)))
    save_file(to_state_dict(ClipsModel(SIZES["tiny"])), path)
    with pytest.raises(ConfigError, match=r"train\.model\.text_weights: "):
        load_initial_weights(model(0), ModelConfig(text_weights=str(path)))
    state = to_state_dict(model(0))
    state["visual.positional_embedding"] += 1.0
    save_file(state, path)
    with pytest.raises(ConfigError, match=r"vision_weights: .*position table was trained, but"):
        load_initial_weights(model(0), ModelConfig(vision_weights=str(path)))


@pytest.mark.parametrize("name", ["evil.pt", "evil.bin", "evil.pth", "evil.safetensors"])
def test_pickled_weights_are_never_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Evil()}, tmp_path / name)
    monkeypatch.setattr(torch, "load", None)
    refusal = "cannot be read as tensors" if name.endswith("safetensors") else "cannot be read without running code"
    with pytest.raises(ConfigError, match=rf"train\.model\.vision_weights: .*{refusal}"):
        load_initial_weights(model(0), ModelConfig(vision_weights=str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


def test_frozen_parts_keep_their_weights_and_leave_the_optimizer() -> None:
    found = model(0)
    load_initial_weights(found, ModelConfig(), ("vision",))
    trained = {id(p) for group in adamw(found, OptimizerConfig()).param_groups for p in group["params"]}
    for name, parameter in found.named_parameters():
        assert (id(parameter) in trained) == (not name.startswith("vision."))


def test_a_stage_changes_only_its_own_keys() -> None:
    stage = FinetuneConfig("models:/clips@champion", {"model": {"image_size": 336}, "samples": 10})
    train = {"model": {"size": "l14", "image_size": 84}, "samples": 99, "seed": 3}
    assert stage.parameters(train, "unused") == {
        "model": {"size": "l14", "image_size": 336, "initial_weights": "models:/clips@champion"}, "samples": 10, "seed": 3,
    }  # fmt: skip
    assert train["samples"] == 99
    assert FinetuneConfig(None, {}).parameters(train, "before")["model"]["initial_weights"] == "before"
    assert merge({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_initial_weights_of_a_stage_are_set_by_start_only() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.train\.model\.initial_weights: set finetune\.start"):
        from_mapping(FinetuneConfig, {"train": {"model": {"initial_weights": "x"}}}, "finetune")


def test_weights_without_a_captioner_leave_the_new_one_as_it_is(tokenizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    towers = ClipsModel(dataclasses.replace(SMALL, captioner=None))
    exported = save_model(towers, tokenizer, {}, tmp_path / "imported")
    found, before = model(1), model(1)
    load_initial_weights(found, ModelConfig(initial_weights=str(exported)))
    for name, parameter in found.named_parameters():
        expected = before if name.startswith("captioner.") else towers
        assert torch.equal(parameter, expected.get_parameter(name)), name
