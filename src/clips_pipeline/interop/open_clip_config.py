"""Checks of the configuration in a model folder of open_clip, before open_clip and transformers act on it."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, flatten

log = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
"""Configuration of model, preprocessing and tokenizer, as open_clip's `push_to_hf_hub` and `save_for_hf` write it."""

KEY = "evaluate.model"
"""Configuration key of the model, for messages."""

# transformers before 5.3 fetched and ran the code that the last one names (CVE-2026-4372); 5.2 believed the first one in a
# model's own file (CVE-2026-5241).
_RUNS_CODE = ("trust_remote_code", "code_revision", "_attn_implementation_internal")
_MAX_CONFIG_BYTES = 1 << 20
_SMALL = (".json", ".txt", ".model")
_MAX_FILE_BYTES = 1 << 26
_MAX_IMAGE_SIZE = 4096
_LONGEST_REASON = 300
# Numbers of rows of the tables of a tower, each of the width of the tower.
_TABLES = ("vocab_size", "context_length")


def check_config(folder: Path, weights: Path) -> None:
    """Check the configuration of a model folder before open_clip acts on it.

    Raises:
        ConfigError: names the file and the key.
    """
    config = _flat_json(folder / CONFIG_FILE)
    _refuse_code(folder, config)
    text = "model_cfg.text_cfg."
    if config.get(f"{text}pool_type") == "last" and config.get(f"{text}tokenizer_mode") != "clips":
        log.warning(
            "%s: its text tower pools the last position, but text_cfg.tokenizer_mode is not clips, so open_clip fills it with "
            "padding; `clips-pipeline import` reads published weights of CLIPS as they were trained",
            folder / CONFIG_FILE,
        )
    for file in sorted(folder.iterdir()):
        if file.suffix in _SMALL and file.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(
                f"{KEY}: {file} has more than {_MAX_FILE_BYTES} bytes; use the files of a published model"
            )
    _refuse_huge(folder, config, weights.stat().st_size)


def _refuse_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model folder that asks for code of its own, or of a hub, to be run.

    open_clip passes `tokenizer_kwargs` and names of Hugging Face models on to transformers, which imports the Python files that
    an `auto_map` names, or asks on the terminal whether it may.

    Raises:
        ConfigError: names the file and the key.
    """
    _refuse_keys(folder / CONFIG_FILE, config)
    names = (config.get(f"model_cfg.text_cfg.{key}") for key in ("hf_model_name", "hf_tokenizer_name"))
    for name in (str(folder), *(name for name in names if isinstance(name, str))):
        for file in (_local(name, "config.json"), _local(name, "tokenizer_config.json")):
            if file is not None:
                _refuse_keys(file, _flat_json(file))


def _refuse_keys(file: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        parts = key.split(".")
        if parts[-1] in _RUNS_CODE and value not in (None, False):
            raise ConfigError(
                f"{KEY}: {file}: {key} asks for code of the model to be run, which is never done; remove the key, and use the "
                "tokenizer's own files"
            )
        if "auto_map" in parts:
            raise ConfigError(
                f"{KEY}: {file}: {key} names code of the model to be run, which is never done; remove the key, if transformers has "
                "the architecture itself"
            )


def _local(name: str, file: str) -> Path | None:
    """Return the path of a file of a model, by folder or by its name in the hub, if it is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    try:
        if Path(name).is_dir():
            return Path(name, file) if Path(name, file).is_file() else None
        found = try_to_load_from_cache(name, file)
    except (OSError, ValueError) as error:  # no name of a model, or one too long for a path
        raise ConfigError(f"{KEY}: hf_model_name: {first_line(error)}; correct it") from None
    return Path(found) if isinstance(found, str) else None


def _refuse_huge(folder: Path, config: Mapping[str, Any], size: int) -> None:
    """Refuse a model with more weights than its file has bytes, which would fill the memory before the file is read.

    Args:
        folder: the model folder.
        config: content of its configuration, flat.
        size: size of the file of weights in bytes.

    Raises:
        ConfigError: names the file and the key.
    """
    for tower in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        width = _number(config, f"{tower}.width")
        counts = {name: _number(config, f"{tower}.{name}") * width for name in _TABLES}
        counts["layers"] = (
            _number(config, f"{tower}.layers") * width**2 * max(1.0, _number(config, f"{tower}.mlp_ratio"))
        )
        for name, count in counts.items():
            if count > size:
                raise ConfigError(
                    f"{KEY}: {folder / CONFIG_FILE}: model_cfg.{tower}.{name} asks for more weights than the {size} bytes of "
                    "the weights file; use both files of one model"
                )
    sides = config.get("preprocess_cfg.size", 1)
    for side in sides if isinstance(sides, list) else [sides]:
        if isinstance(side, int | float) and side > _MAX_IMAGE_SIZE:
            raise ConfigError(
                f"{KEY}: {folder / CONFIG_FILE}: preprocess_cfg.size is more than {_MAX_IMAGE_SIZE} pixels; correct it"
            )


def _number(config: Mapping[str, Any], key: str) -> float:
    """Return a size of a tower; the sum of a list (layers of each stage of a ResNet); 1 where it has another type."""
    value = config.get(f"model_cfg.{key}", 1)
    numbers = value if isinstance(value, list) else [value]
    try:
        return sum(float(number) for number in numbers if isinstance(number, int | float))
    except OverflowError:
        return math.inf


def _flat_json(file: Path) -> dict[str, Any]:
    """Read a small JSON object of a foreign folder; nested keys are joined by dots.

    Dots in keys are replaced, so that no key can hide another: {"a": {"b": 1}, "a.b": 2}.
    """
    try:
        content = file.read_bytes() if file.stat().st_size <= _MAX_CONFIG_BYTES else b"null"
        found = json.loads(
            content, object_pairs_hook=lambda pairs: {key.replace(".", "/"): value for key, value in pairs}
        )
        if isinstance(found, dict):
            return flatten(found)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{KEY}: {file} cannot be read: {first_line(error)}; use the one that open_clip wrote"
        ) from None
    raise ConfigError(
        f"{KEY}: {file} is not a JSON object of at most {_MAX_CONFIG_BYTES} bytes; use the one that open_clip wrote"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its type if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_REASON]
