"""A CLIPS model in a folder of open_clip's form, read without open_clip: the published weights, and this project's exports.

    open_clip_config.json                         sizes of the towers, image transform
    *.safetensors, open_clip_pytorch_model.bin    both towers and the logit scale
    vocab.txt or tokenizer.json                   WordPiece or CLIP's byte pairs

The authors of CLIPS and OpenVision publish such folders. Only what computes exactly as our towers is read; other
models of open_clip can be measured with `evaluate.model`. Rows of ids are those of the training, `[BOS] text [EOS] [PAD] …
[CLS]`, whatever tokenizer mode the configuration names: some published files name none, and open_clip then makes other rows.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.data.images.transforms import ImageConfig, eval_image
from clips_pipeline.interop.folder import LoadedModel
from clips_pipeline.interop.foreign_weights import find_weights_file, load_weights_file
from clips_pipeline.interop.open_clip import HEAD_WIDTH, from_state_dict
from clips_pipeline.interop.open_clip_config import CONFIG_FILE
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.json_text import parse_json
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.sizes import EPSILON, MLP_RATIO
from clips_pipeline.text.tokenizers.published import read_tokenizer
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_MAX_CONFIG_BYTES = 1 << 20
_LICENSE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9.+-]{1,60})['\"]?[ \t]*$", re.MULTILINE)
# What CLIPS needs, where open_clip has a choice: tower, key, values. `None` among the values: the key may be missing.
_REQUIRED: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("vision_cfg", "no_ln_pre", (True,)),
    ("vision_cfg", "pool_type", ("avg",)),
    ("vision_cfg", "final_ln_after_pool", (True,)),
    ("vision_cfg", "mlp_ratio", (MLP_RATIO, None)),
    ("text_cfg", "no_causal_mask", (True,)),
    ("text_cfg", "pool_type", ("last",)),
    ("text_cfg", "act_kwargs", ({"approximate": "tanh"},)),
    ("text_cfg", "mlp_ratio", (MLP_RATIO, None)),
    ("text_cfg", "proj_type", ("linear", None)),
    ("text_cfg", "pad_id", (0, None)),
)
# Keys that say sizes, that are checked apart, or that change nothing in an evaluation.
_KNOWN = {
    "": {"embed_dim", "vision_cfg", "text_cfg", "init_logit_scale", "init_logit_bias", "output_dict", "cast_dtype"},
    "vision_cfg": {"image_size", "patch_size", "layers", "width", "head_width", "norm_kwargs", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "layers", "width", "heads", "norm_kwargs"}
    | {"hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"},
}
# What open_clip takes for a missing key.
_SIZES = {
    "vision_cfg": {"image_size": 224, "patch_size": 16, "layers": 12, "width": 768, "head_width": HEAD_WIDTH},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 12, "width": 512, "heads": 8},
}
_PREPROCESS: dict[str, Any] = {
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_FRAMINGS = {"squash": "squash", "shortest": "crop"}


@dataclass(frozen=True)
class Origin:
    """Where imported weights came from.

    Attributes:
        source: the folder or the id of the repository.
        weights: name of the file of weights.
        weights_sha256: SHA-256 of that file.
        revision: commit of the repository; None for a folder.
        license: license that the source's README states; None if it states none.
    """

    source: str
    weights: str
    weights_sha256: str
    revision: str | None = None
    license: str | None = None


def origin_of(folder: Path, source: str | None = None, revision: str | None = None) -> Origin:
    """Return the origin of a folder of open_clip's form.

    Args:
        folder: the folder.
        source: where it was fetched from; None is the folder.
        revision: commit of that repository.

    Raises:
        ConfigError: it has no weights.
    """
    weights = find_weights_file(folder, str(folder))
    return Origin(source or str(folder), weights.name, file_sha256(weights), revision, _license(folder))


def _license(folder: Path) -> str | None:
    """Return the license in the front matter of a README."""
    file = folder / "README.md"
    if not file.is_file() or file.stat().st_size > _MAX_CONFIG_BYTES:
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    found = _LICENSE.search(front)
    return found[1] if found else None


def is_open_clip_folder(folder: Path) -> bool:
    """Return whether a folder has open_clip's configuration."""
    return (folder / CONFIG_FILE).is_file()


def load_open_clip_folder(folder: Path, vocabulary: Path | None = None) -> LoadedModel:
    """Load a CLIPS model, without a captioner, in float32 on the CPU and in evaluation mode.

    Args:
        folder: folder of open_clip's form.
        vocabulary: `vocab.txt` or `tokenizer.json`, if the folder has none of its own.

    Raises:
        ConfigError: a file is missing or damaged, the model is none of CLIPS' form, or its files do not fit each other.
    """
    file = folder / CONFIG_FILE
    content = _read(file)
    config = content.get("model_cfg", content)
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: model_cfg: not an object; use the file that open_clip wrote")
    _check_form(file, config)
    size = _number(file, "vision_cfg", "image_size", config["vision_cfg"])
    images = _images(file, content.get("preprocess_cfg", {}), size)
    model = _load_towers(file, config, find_weights_file(folder, str(folder)))
    tokenizer = read_tokenizer(folder, vocabulary)
    _check_tokenizer(folder, tokenizer, model)
    return LoadedModel(model, partial(eval_image, config=images), tokenizer, {}, images)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(
            f"{file}: no such file; give a folder of open_clip's form, with weights and tokenizer (a model folder of this project "
            "needs no import)"
        )
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"more than {_MAX_CONFIG_BYTES} bytes")
        content = parse_json(file.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON ({error}); use the file that open_clip wrote") from None
    return content


def _check_form(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse what our towers do not compute."""
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(config.get(part), dict):
            raise ConfigError(f"{file}: {part}: missing; use the file that open_clip wrote")
    for part, key, values in _REQUIRED:
        found = config[part].get(key)
        if found not in values or isinstance(found, bool) != isinstance(values[0], bool):
            _refuse(file, f"{part}.{key}", found)
    for part, known in _KNOWN.items():
        mapping = config[part] if part else config
        required = {key for name, key, _ in _REQUIRED if name == part}
        for key, value in mapping.items():
            # What is off in open_clip's words is none of the model.
            if key not in known | required and value not in (None, False, 0, "", {}, []):
                _refuse(file, f"{part}.{key}".lstrip("."), value)
    for part in ("vision_cfg", "text_cfg"):
        norm = config[part].get("norm_kwargs", {})
        if norm not in ({}, {"eps": EPSILON}):
            _refuse(file, f"{part}.norm_kwargs", norm)
        if not norm:
            log.warning(
                "%s: %s.norm_kwargs is missing; read as eps %g, with which published weights were trained",
                file,
                part,
                EPSILON,
            )


def _refuse(file: Path, key: str, value: Any) -> None:
    text = "missing" if value is None else f"{str(value)[:60]!r}"
    raise ConfigError(
        f"{file}: {key}: {text}, so this is no model of CLIPS' form; `evaluate.model` measures others with open_clip, and "
        "nothing else can be done with them here"
    )


def _number(file: Path, part: str, key: str, mapping: Mapping[str, Any]) -> int:
    value = mapping.get(key, _SIZES.get(part, {}).get(key))
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 2**24:
        raise ConfigError(
            f"{file}: {f'{part}.{key}'.lstrip('.')}: {str(value)[:60]!r} is no size; use the file that open_clip wrote"
        )
    return value


def _load_towers(file: Path, config: Mapping[str, Any], weights: Path) -> ClipsModel:
    sizes = {f"{part}.{key}": _number(file, part, key, config[part]) for part, keys in _SIZES.items() for key in keys}
    sizes["embed_dim"] = _number(file, "", "embed_dim", config)
    width, head_width = sizes["vision_cfg.width"], sizes["vision_cfg.head_width"]
    if width % head_width:
        raise ConfigError(f"{file}: vision_cfg.head_width: {head_width} does not divide the width {width}; correct it")
    # Training checkpoints have DDP's prefix in each name.
    tensors = load_weights_file(weights, str(file.parent))
    state = {name.removeprefix("module."): tensor.float() for name, tensor in tensors.items()}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"{weights}: {name} has values that are not finite; fetch the file again")
    try:
        model = from_state_dict(
            state,
            sizes["vision_cfg.image_size"],
            vision_heads=width // head_width,
            text_heads=sizes["text_cfg.heads"],
            captioner=False,
        )
    except ConfigError as error:
        raise ConfigError(f"{weights}: {error}") from None
    vision, text = model.config.vision, model.config.text
    positions = state["visual.positional_embedding"].shape[0]
    if positions != vision.tokens + 1:
        raise ConfigError(
            f"{file}: vision_cfg.image_size: {vision.image_size} is {vision.tokens} patches, but {weights.name} has positions for "
            f"{positions - 1}; use both files of one model"
        )
    found = {
        "vision_cfg.patch_size": vision.patch_size,
        "vision_cfg.layers": vision.depth,
        "vision_cfg.width": vision.width,
        "text_cfg.context_length": text.context_length,
        "text_cfg.vocab_size": text.vocab_size,
        "text_cfg.layers": text.depth,
        "text_cfg.width": text.width,
        "embed_dim": model.config.embed_dim,
    }
    for key, value in found.items():
        if value != sizes[key]:
            raise ConfigError(
                f"{file}: {key}: {sizes[key]}, but {weights.name} has {value}; use both files of one model"
            )
    return model.eval()


def _images(file: Path, given: Any, image_size: int) -> ImageConfig:
    if not isinstance(given, dict):
        raise ConfigError(f"{file}: preprocess_cfg: not an object; use the file that open_clip wrote")
    values = _PREPROCESS | given
    if values.get("size", image_size) not in (image_size, [image_size, image_size]):
        raise ConfigError(
            f"{file}: preprocess_cfg.size: {str(values['size'])[:60]}, but the vision tower reads images of {image_size}; use the "
            "files of one model"
        )
    for key, known in (("mode", ("RGB",)), ("resize_mode", tuple(_FRAMINGS))):
        if values[key] not in known:
            raise ConfigError(
                f"{file}: preprocess_cfg.{key}: {str(values[key])[:60]!r} is not supported; known: {', '.join(known)}"
            )
    mapping = {
        "size": image_size,
        "framing": _FRAMINGS[values["resize_mode"]],
        **{key: values[key] for key in ("interpolation", "mean", "std")},
    }
    return from_mapping(ImageConfig, mapping, f"{file}: preprocess_cfg")


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, model: ClipsModel) -> None:
    rows = model.config.text.vocab_size
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, but the embedding table {rows} rows; use the tokenizer of "
            "this model"
        )
