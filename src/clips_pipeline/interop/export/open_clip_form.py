"""Folder that `open_clip.create_model_from_pretrained("local-dir:…")` and `open_clip.get_tokenizer` load, without this project.

open_clip has neither a padding mask nor a captioner: models with `padding: mask` are refused, and the captioner is left out.
"""

import json
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.interop.folder import LoadedModel, save_weights
from clips_pipeline.interop.open_clip import to_state_dict
from clips_pipeline.models.init import INITIAL_SIGMOID
from clips_pipeline.models.sizes import EPSILON, ClipsConfig
from clips_pipeline.text.tokenizers.fast import fast_tokenizer, special_names
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

WEIGHTS_FILE = "open_clip_model.safetensors"
CONFIG_FILE = "open_clip_config.json"


def write_open_clip(loaded: LoadedModel, folder: Path) -> None:
    """Write weights, configuration and tokenizer into `folder`.

    Args:
        loaded: the model.
        folder: an empty folder.

    Raises:
        ConfigError: open_clip cannot compute this model.
    """
    config = loaded.model.config
    if config.text.padding != "attend":
        raise ConfigError(
            f"--to open-clip: the model has train.model.padding {config.text.padding!r}, and open_clip cannot hide padding, so its "
            "text features would differ; use --to transformers, or train with train.model.padding: attend"
        )
    save_weights(to_state_dict(loaded.model), folder / WEIGHTS_FILE)
    content = {
        "model_cfg": model_config(config, loaded.tokenizer.kind),
        "preprocess_cfg": _preprocess_config(loaded.images),
    }
    write_json(folder / CONFIG_FILE, content)
    write_tokenizer(loaded.tokenizer, folder, config.text.context_length)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which transformers 4 and 5 read.

    Args:
        tokenizer: tokenizer of the model.
        folder: where to write.
        length: ids of a row.
    """
    fast_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **special_names(tokenizer),
    }
    write_json(folder / "tokenizer_config.json", content)


def model_config(config: ClipsConfig, tokenizer: str) -> dict[str, Any]:
    """Return open_clip's description of a model, the arguments of its `CLIP`.

    Args:
        config: sizes of the model.
        tokenizer: kind of its tokenizer.
    """
    vision, text = config.vision, config.text
    # open_clip's `CLIP` has a bias where this key says how it begins.
    bias = {"init_logit_bias": INITIAL_SIGMOID[1]} if config.contrastive == "sigmoid" else {}
    return {
        "embed_dim": config.embed_dim,
        **bias,
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.width,
            "layers": vision.depth,
            "head_width": vision.width // vision.heads,
            "no_ln_pre": True,
            "pool_type": "avg",
            "final_ln_after_pool": True,
            "norm_kwargs": {"eps": EPSILON},
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "layers": text.depth,
            "heads": text.heads,
            "no_causal_mask": True,
            "pool_type": "last",
            "act_kwargs": {"approximate": "tanh"},
            "norm_kwargs": {"eps": EPSILON},
            # Any name but an empty one; a `local-dir:` reads the tokenizer of its own folder, a hub needs the repository's id.
            "hf_tokenizer_name": "local",
            "tokenizer_mode": "clips",
            "tokenizer_kwargs": {"clean": "lower" if tokenizer == "clip_bpe" else "whitespace"},
        },
    }


def _preprocess_config(images: ImageConfig) -> dict[str, Any]:
    return {
        "size": [images.size, images.size],
        "mode": "RGB",
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "resize_mode": {"crop": "shortest", "squash": "squash"}[images.framing],
    }


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a JSON file for people to read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
