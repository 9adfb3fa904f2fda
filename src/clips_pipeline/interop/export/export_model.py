"""Export of a model folder in another library's form: written, loaded there by a fresh process, compared, then kept."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.export.onnx_form import Int8Check, remove_int8, write_int8, write_onnx
from clips_pipeline.interop.export.open_clip_form import write_open_clip
from clips_pipeline.interop.export.readme import BEGINS, NOTHING_KNOWN, README, Provenance, render
from clips_pipeline.interop.export.transformers_form import write_transformers
from clips_pipeline.interop.folder import CONFIG_FILE, ORIGIN, LoadedModel, check_replaceable, load_model_folder
from clips_pipeline.interop.open_clip_folder import is_open_clip_folder, load_open_clip_folder, origin_of
from clips_pipeline.io.atomic import replace_folder

MAX_DIFFERENCE: Final = 1e-5
"""Largest difference, in float32, with which an export is kept: of a feature, or relative to the largest value above 1."""

MAX_HALF_DIFFERENCE: Final = 1e-2
"""The same for features in float16, which have unit norm."""

_HALF, _INT8 = "_fp16", "_int8"
_IMAGES = 4
_TEXTS = (
    "a dog",
    "A red ball on the grass, beside two dogs; it's 3 o'clock.",
    'Café naïve — "quoted", 50 % off! [CLS] don\'t',
    "the quick brown fox jumps over the lazy dog " * 20,
    "",
)


@dataclass(frozen=True)
class Form:
    """A form of export.

    Attributes:
        write: writes the folder.
        check: name of the script that loads the folder again.
        package: package that the script needs.
        extra: extra of this package that installs it.
        template: template of the folder's README.
    """

    write: Callable[[LoadedModel, Path], None]
    check: str
    package: str
    extra: str
    template: str


FORMS: Final[Mapping[str, Form]] = {
    "open-clip": Form(write_open_clip, "check_open_clip.py", "open_clip_torch", "open-clip", "open_clip.md"),
    "onnx": Form(write_onnx, "check_onnx.py", "onnxruntime", "onnx", "onnx.md"),
    "transformers": Form(
        write_transformers, "check_transformers.py", "transformers", "transformers", "transformers.md"
    ),
}
"""Forms by their name for `--to`."""


Int8Measure = Callable[[LoadedModel, Path], Int8Check]
"""Measures what int8 costs, given the model and its export in float32 and int8 (`evaluation.int8_recall.Int8Gate`)."""


def export_model(
    model: Path, out: Path, to: str, provenance: Provenance = NOTHING_KNOWN, int8: Int8Measure | None = None
) -> dict[str, float]:
    """Write the model in `model` to the folder `out`; an earlier export there is replaced once the new one has passed its check.

    Args:
        model: model folder of this project, or a folder of open_clip's form.
        out: folder to write.
        to: a name in `FORMS`.
        provenance: license, data and card, for the folder's README.
        int8: for `onnx`: decides whether the towers are also written in int8.

    Returns:
        Largest absolute differences between this project's results and the other library's: `image_features`,
        `text_features`, `logit_scale`, `pixels` of a preprocessed image in steps of 1/255, and others by form.

    Raises:
        ConfigError: the model or the form does not exist, the form cannot say what the model computes, or the other library
            computes something else.
    """
    form = FORMS.get(to)
    if form is None:
        raise ConfigError(f"--to {to}: unknown; known: {', '.join(FORMS)}")
    if int8 is not None and to != "onnx":
        raise ConfigError(f"--recall-set: only --to onnx has int8, not {to}; leave it out")
    out = out.resolve()
    if out == model.resolve():
        raise ConfigError(f"{out}: is the model itself; give another folder")
    check_replaceable(out, README, BEGINS)
    loaded, provenance = load_any(model, provenance)
    if loaded.model.text is None and to != "transformers":
        raise ConfigError(
            f"--to {to}: this form has a text tower, and {model} has none (train.method captioning); use --to transformers, which "
            "then holds the vision tower alone"
        )
    with replace_folder(out) as folder:
        form.write(loaded, folder)
        check = None
        if int8 is not None:
            write_int8(folder)
            check = int8(loaded, folder)
            if not check.kept:
                remove_int8(folder)
        differences = _compare(form, loaded, folder)
        limits = {"limit": MAX_DIFFERENCE, "half_limit": MAX_HALF_DIFFERENCE}
        facts = {"differences": differences, "int8": check, "digest": model_digest(model), **limits}
        text = render(form.template, loaded, provenance, **facts)
        (folder / README).write_text(text, encoding="utf-8")
    return differences


def load_any(model: Path, provenance: Provenance = NOTHING_KNOWN) -> tuple[LoadedModel, Provenance]:
    """Load a model folder, or a folder of open_clip's form, and add what it says about its origin.

    Raises:
        ConfigError: it is neither, or cannot be loaded.
    """
    if (model / CONFIG_FILE).is_file() or not is_open_clip_folder(model):
        loaded = load_model_folder(model)
        origin = loaded.config.get(ORIGIN)
        return loaded, provenance.with_origin(origin) if isinstance(origin, dict) else provenance
    loaded = load_open_clip_folder(model)
    return loaded, provenance.with_origin(to_mapping(origin_of(model)))


def _compare(form: Form, loaded: LoadedModel, folder: Path) -> dict[str, float]:
    """Return the differences from what the other library computes with the folder.

    Raises:
        ConfigError: the library is not installed, cannot load the folder, or a difference is above `MAX_DIFFERENCE`.
    """
    draws, images = np.random.default_rng(0), loaded.images
    picture = _picture(images.size + 37, 2 * images.size + 11)
    inputs = draws.standard_normal((_IMAGES, 3, images.size, images.size), np.float32)
    expected = _expected(loaded, torch.from_numpy(inputs), picture)
    found = _run_check(form, folder, {"images": inputs, "picture": picture})
    ids_BL = expected.pop("ids")
    if "ids" in found and not np.array_equal(found["ids"], ids_BL):
        text = _TEXTS[int(np.argmax((found["ids"] != ids_BL).any(axis=1)))]
        raise ConfigError(f"{form.package} reads {text[:60]!r} as other token ids; the export was not kept")
    differences = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected.keys() & found.keys()}
    differences["pixels"] = differences.pop("view") * 255.0 * min(images.std)
    for name in sorted(differences.keys() - {"pixels"}):
        limit = MAX_DIFFERENCE * max(1.0, float(np.abs(expected[name]).max()))
        limit = MAX_HALF_DIFFERENCE if name.endswith(_HALF) else limit
        # Recall decides about int8 (`Int8Check`).
        if not differences[name] <= limit and not name.endswith(_INT8):
            raise ConfigError(
                f"{form.package} computes other {name} (difference {differences[name]:.1e}, at most {limit:.0e}); the export was "
                "not kept"
            )
    return differences


def _picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) that changes slowly, as photos do."""
    y_HW, x_HW = np.mgrid[:height, :width] / max(height, width)
    waves_HWC = np.stack([np.sin(9 * x_HW + 4 * y_HW), np.cos(7 * y_HW), np.sin(11 * x_HW * y_HW)], axis=2)
    return (127.5 + 127.5 * waves_HWC).astype(np.uint8)


@torch.no_grad()
def _expected(loaded: LoadedModel, images_BCHW: Tensor, picture: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return what this project computes, under the names that the scripts write."""
    model = loaded.model
    ids_BL = torch.tensor([loaded.tokenizer.encode(text, model.config.text.context_length) for text in _TEXTS])
    tokens_BSD = model.vision.embed(images_BCHW)
    for block in model.vision.blocks[:-1]:
        tokens_BSD = block(tokens_BSD)
    results = {"ids": ids_BL, "tokens": tokens_BSD, "view": loaded.image_transform(Image.fromarray(picture))}
    if model.text is None:
        return {name: tensor.numpy() for name, tensor in results.items()}
    results |= {
        "image_features": model.encode_image(images_BCHW),
        "text_features": model.encode_text(ids_BL),
        "pooled": model.vision(images_BCHW).pooled_BD,
        "logit_scale": model.logit_scale.exp(),
        **({} if model.logit_bias is None else {"logit_bias": model.logit_bias}),
    }
    arrays = {name: tensor.numpy() for name, tensor in results.items()}
    features = {name: arrays[name] for name in ("image_features", "text_features")}
    return arrays | {f"{name}{suffix}": value for name, value in features.items() for suffix in (_HALF, _INT8)}


def _run_check(form: Form, folder: Path, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    script = Path(__file__).with_name(form.check)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        np.savez(temporary / "inputs.npz", allow_pickle=False, **inputs)
        (temporary / "texts.json").write_text(json.dumps(_TEXTS), encoding="utf-8")
        files = [str(temporary / file) for file in ("inputs.npz", "texts.json", "outputs.npz")]
        done = subprocess.run(  # noqa: S603  (a script of this package)
            [sys.executable, "-P", str(script), str(folder), *files],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ConfigError(
                f"{form.package} cannot load the export ({last[0]}); `pip install 'clips-pipeline[{form.extra}]'`, or report it"
            )
        with np.load(files[2], allow_pickle=False) as found:
            return dict(found)
