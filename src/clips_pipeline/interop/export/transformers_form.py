"""Folders that Transformers 4 and 5 load: the vision tower as a native ViT (LLaVA's tower), and both towers with their code.

`vision/` needs no code of this project. `model/` contains `models/plain.py` and `remote_code`, since no architecture of
Transformers has these towers with one configuration and, with `padding: mask`, none has the text tower at all.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.interop.export import remote_code, sentence_transformers_files
from clips_pipeline.interop.export.open_clip_form import write_json, write_tokenizer
from clips_pipeline.interop.folder import LoadedModel, save_weights
from clips_pipeline.models import plain
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.plain import PlainText, PlainVision
from clips_pipeline.models.sizes import EPSILON, MLP_RATIO
from clips_pipeline.models.vision import VisionTower
from clips_pipeline.text.tokenizers.fast import fast_tokenizer, special_names

_PLAIN_MODULE = "plain_clips"
_RESAMPLING = {"bilinear": 2, "bicubic": 3}


def write_transformers(loaded: LoadedModel, folder: Path) -> None:
    """Write `vision/` and, if the model has a text tower, `model/` into `folder`.

    Args:
        loaded: the model.
        folder: an empty folder.
    """
    if loaded.model.text is None:
        (folder / "vision").mkdir()
        write_json(folder / "vision" / "preprocessor_config.json", _preprocessor(loaded.images))
        _write_vision(loaded.model, folder / "vision")
        return
    for name in ("vision", "model"):
        (folder / name).mkdir()
        write_json(folder / name / "preprocessor_config.json", _preprocessor(loaded.images))
    _write_vision(loaded.model, folder / "vision")
    _write_model(loaded, folder / "model")
    # One processor for both, made of the folder's tokenizer and image processor.
    _add(folder / "model" / "preprocessor_config.json", processor_class="CLIPProcessor")
    _add(folder / "model" / "tokenizer_config.json", processor_class="CLIPProcessor")
    sentence_transformers_files.write_vision(loaded.model.vision, folder / "vision")
    sentence_transformers_files.write_both(folder / "model")


def plain_towers(model: ClipsModel) -> tuple[PlainVision, PlainText]:
    """Return both towers as plain modules with copies of the weights, in evaluation mode."""
    vision_arguments, text_arguments = plain_arguments(model)
    vision, text = PlainVision(**vision_arguments), PlainText(**text_arguments)
    weights = plain_weights(model)
    for tower, prefix in ((vision, "vision."), (text, "text.")):
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tower.to(model.logit_scale.dtype).load_state_dict(own)
        tower.eval()
    return vision, text


def plain_arguments(model: ClipsModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `PlainVision` and of `PlainText` for a model."""
    vision, text = model.config.vision, model.config.text
    return (
        {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.width,
            "depth": vision.depth,
            "heads": vision.heads,
            "embed_dim": model.config.embed_dim,
        },
        {
            "vocab_size": text.vocab_size,
            "context_length": text.context_length,
            "width": text.width,
            "depth": text.depth,
            "heads": text.heads,
            "embed_dim": model.config.embed_dim,
            "hidden_id": text.pad_id if text.padding == "mask" else None,
        },
    )


def plain_weights(model: ClipsModel) -> dict[str, Tensor]:
    """Return the weights of both plain towers, scale and bias: `vision.…`, `text.…`, `logit_scale`, perhaps `logit_bias`."""
    towers = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("captioner.")}
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in towers.items()}
    weights.setdefault("vision.positions_PD", model.vision.position_table())
    return weights


def _write_vision(model: ClipsModel, folder: Path) -> None:
    config = model.config.vision
    content = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": MLP_RATIO * config.width,
        "hidden_act": "gelu",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "layer_norm_eps": EPSILON,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    write_json(folder / "config.json", content)
    _save(vit_weights(model.vision), folder)


def vit_weights(vision: VisionTower) -> dict[str, Tensor]:
    """Return the tower under the names of `ViTModel` in Transformers 4, which version 5 reads too."""
    own = vision.state_dict()
    # A tower of method captioning has no last norm; `ViTModel` has one, which LLaVA does not read.
    own.setdefault("norm.weight", torch.ones_like(own["cls_D"]))
    own.setdefault("norm.bias", torch.zeros_like(own["cls_D"]))
    weights = {
        "embeddings.cls_token": own["cls_D"].view(1, 1, -1),
        "embeddings.position_embeddings": vision.position_table()[None],
        "embeddings.patch_embeddings.projection.weight": own["patches.weight"],
        "embeddings.patch_embeddings.projection.bias": torch.zeros_like(own["cls_D"]),
        "layernorm.weight": own["norm.weight"],
        "layernorm.bias": own["norm.bias"],
    }
    for number in range(vision.config.depth):
        ours, theirs = f"blocks.{number}.", f"encoder.layer.{number}."
        for end in ("weight", "bias"):
            parts = zip(("query", "key", "value"), own[f"{ours}attn.in_proj.{end}"].chunk(3), strict=True)
            weights |= {f"{theirs}attention.attention.{name}.{end}": part for name, part in parts}
            weights |= {
                f"{theirs}attention.output.dense.{end}": own[f"{ours}attn.out_proj.{end}"],
                f"{theirs}intermediate.dense.{end}": own[f"{ours}mlp.c_fc.{end}"],
                f"{theirs}output.dense.{end}": own[f"{ours}mlp.c_proj.{end}"],
                f"{theirs}layernorm_before.{end}": own[f"{ours}ln_1.{end}"],
                f"{theirs}layernorm_after.{end}": own[f"{ours}ln_2.{end}"],
            }
    return weights


def _write_model(loaded: LoadedModel, folder: Path) -> None:
    vision, text = plain_arguments(loaded.model)
    content = {
        "architectures": ["ClipsModel"],
        "model_type": "clips",
        "auto_map": {"AutoConfig": "configuration_clips.ClipsConfig", "AutoModel": "modeling_clips.ClipsModel"},
        "vision": vision,
        "text": text,
        "pad_id": loaded.tokenizer.pad_id,
        "cls_id": loaded.tokenizer.cls_id,
        # Sentence Transformers reads the width of the embedding here.
        "projection_dim": loaded.model.config.embed_dim,
        **({"sigmoid": True} if loaded.model.logit_bias is not None else {}),
    }
    write_json(folder / "config.json", content)
    _save(plain_weights(loaded.model), folder)
    write_tokenizer(loaded.tokenizer, folder, loaded.model.config.text.context_length)
    fast = fast_tokenizer(loaded.tokenizer)
    add_special_ids(fast, special_names(loaded.tokenizer))
    fast.save(str(folder / "tokenizer.json"))
    shutil.copyfile(plain.__file__, folder / f"{_PLAIN_MODULE}.py")
    for module in remote_code.__all__:
        code = Path(remote_code.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        code = code.replace(f"from {plain.__name__} import", f"from .{_PLAIN_MODULE} import")
        (folder / f"{module}.py").write_text(code.replace(f"from {remote_code.__name__}.", "from ."), encoding="utf-8")


def add_special_ids(fast: FastTokenizer, names: dict[str, str]) -> None:
    """Let a tokenizer write `[BOS] text [EOS] [PAD]`; the model writes [CLS] over the last id, which padding would follow."""
    used = [names[key] for key in ("bos_token", "eos_token", "pad_token")]
    fast.post_processor = TemplateProcessing(
        single=f"{used[0]} $A {used[1]} {used[2]}", special_tokens=[(name, fast.token_to_id(name)) for name in used]
    )


def _add(file: Path, **values: Any) -> None:
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | values)


def _preprocessor(images: ImageConfig) -> dict[str, Any]:
    shared = {
        "do_resize": True,
        "resample": _RESAMPLING[images.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "do_convert_rgb": True,
    }
    side = {"height": images.size, "width": images.size}
    if images.framing == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": side, **shared}
    crop = {"size": {"shortest_edge": images.size}, "do_center_crop": True, "crop_size": side}
    return {"image_processor_type": "CLIPImageProcessor", **crop, **shared}


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    save_weights(contiguous, folder / "model.safetensors")
