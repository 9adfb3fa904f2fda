"""Folder with both towers as ONNX, and tokenizer and image transform as files: features without torch.

vision.onnx, text.onnx              float32; any batch size
vision_fp16.onnx, text_fp16.onnx    weights and computation in float16; inputs and outputs stay float32
vision_int8.onnx, text_int8.onnx    weights of the matrix products in int8, per channel; only if recall stays (`Int8Check`)
tokenizer.json                      rows of ids; the last id of a row has to be replaced by [CLS]
preprocessing.json                  image transform, and the id of [CLS]
"""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.export.open_clip_form import write_json
from clips_pipeline.interop.export.transformers_form import add_special_ids, plain_towers
from clips_pipeline.interop.folder import LoadedModel, Towers
from clips_pipeline.text.tokenizers.fast import fast_tokenizer, special_names

TOWERS = ("vision", "text")
INPUTS = {"vision": "images", "text": "ids"}
OUTPUT = "features"
PREPROCESSING_FILE = "preprocessing.json"

_OPSET = 17
_INT8 = "_int8"
_QUANTIZED = ["MatMul", "Gemm"]


@dataclass(frozen=True)
class Int8Check:
    """What int8 costs, measured on a set by onnxruntime.

    Attributes:
        set_name: the set, for people.
        images, captions: its size.
        recall: mean recall@1 of the float32 files.
        int8_recall: the same of the int8 files.
        max_drop: the fall below which int8 is kept.
    """

    set_name: str
    images: int
    captions: int
    recall: float
    int8_recall: float
    max_drop: float

    @property
    def kept(self) -> bool:
        """Whether recall falls by less than the bound."""
        return self.recall - self.int8_recall < self.max_drop

    def __str__(self) -> str:
        fall = f"mean recall@1 {self.recall:.4f} in float32, {self.int8_recall:.4f} in int8"
        return f"{fall}, on {self.set_name} ({self.images:,} images, {self.captions:,} captions)"


def write_onnx(loaded: LoadedModel, folder: Path) -> None:
    """Write the towers in float32 and float16, tokenizer and image transform into `folder`.

    Args:
        loaded: the model.
        folder: an empty folder.

    Raises:
        ConfigError: the packages onnx and onnxruntime are not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError:
        raise ConfigError("--to onnx needs more packages: `pip install 'clips-pipeline[onnx]'`") from None
    length = loaded.model.config.text.context_length
    vision, text = plain_towers(loaded.model)
    images = loaded.images
    size = images.size
    examples: dict[str, Tensor] = {
        "vision": torch.zeros(2, 3, size, size),
        "text": torch.zeros(2, length, dtype=torch.int64),
    }
    for name, tower in zip(TOWERS, (vision, text), strict=True):
        file = folder / f"{name}.onnx"
        write_tower(tower, examples[name], INPUTS[name], file)
        half = convert_float_to_float16(onnx.load(file), keep_io_types=True)
        onnx.save(half, folder / f"{name}_fp16.onnx")
    _write_rows(loaded, folder / "tokenizer.json", length)
    content = {
        "size": size,
        "framing": images.framing,
        "interpolation": images.interpolation,
        "mean": list(images.mean),
        "std": list(images.std),
        "cls_id": loaded.tokenizer.cls_id,
        "logit_scale": loaded.model.logit_scale.exp().item(),
        **({} if loaded.model.logit_bias is None else {"logit_bias": loaded.model.logit_bias.item()}),
    }
    write_json(folder / PREPROCESSING_FILE, content)


def write_int8(folder: Path) -> None:
    """Write both towers in int8 beside those in float32: weights are quantized per channel, activations while it computes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    # The quantizer recommends shape inference, which dynamic quantization of these graphs does not need.
    level, root.level = root.level, logging.ERROR
    try:
        for name in TOWERS:
            quantize_dynamic(
                folder / f"{name}.onnx",
                folder / f"{name}{_INT8}.onnx",
                op_types_to_quantize=_QUANTIZED,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
    finally:
        root.level = level


def remove_int8(folder: Path) -> None:
    """Delete the int8 files."""
    for name in TOWERS:
        (folder / f"{name}{_INT8}.onnx").unlink(missing_ok=True)


def onnx_towers(loaded: LoadedModel, folder: Path, suffix: str = "") -> Towers:
    """Return the towers of an export, computed by onnxruntime, with the model's own tokenizer and image transform.

    Args:
        loaded: the exported model.
        folder: the export.
        suffix: of the file names: "", `_fp16` or `_int8`.
    """
    from onnxruntime import InferenceSession

    length = loaded.model.config.text.context_length

    def tower(name: str) -> Callable[[Tensor], Tensor]:
        session = InferenceSession(str(folder / f"{name}{suffix}.onnx"), providers=["CPUExecutionProvider"])
        return lambda batch: torch.from_numpy(session.run(None, {INPUTS[name]: batch.numpy()})[0])

    def rows(texts: Sequence[str]) -> Tensor:
        return torch.tensor([loaded.tokenizer.encode(text, length) for text in texts])

    return Towers(nn.Module(), tower("vision"), tower("text"), loaded.image_transform, rows)


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Return the content of `preprocessing.json`."""
    content: dict[str, Any] = json.loads((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"))
    return content


def write_tower(tower: nn.Module, example: Tensor, input_name: str, file: Path) -> None:
    """Write a tower as ONNX in the precision of its weights, for batches of any size.

    Args:
        tower: `PlainVision` or `PlainText`.
        example: a batch.
        input_name: name of the input in the file.
        file: file to write.
    """
    with warnings.catch_warnings():
        # The exporter warns about its own functions.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            (example,),
            str(file),
            input_names=[input_name],
            output_names=[OUTPUT],
            dynamic_axes={input_name: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=_OPSET,
            # The exporter on top of torch.export needs the package onnxscript, and gives the same graph.
            dynamo=False,
        )


def _write_rows(loaded: LoadedModel, file: Path, length: int) -> None:
    """Write a tokenizer whose `encode` truncates and pads to rows."""
    names = special_names(loaded.tokenizer)
    fast = fast_tokenizer(loaded.tokenizer)
    add_special_ids(fast, names)
    fast.enable_truncation(length)
    fast.enable_padding(length=length, pad_id=loaded.tokenizer.pad_id, pad_token=names["pad_token"])
    fast.save(str(file))
