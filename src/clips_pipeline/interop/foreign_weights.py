"""Weights that others wrote: safetensors files, and files of `torch.save`, of which nothing is run (`torch_archive`).

Torch's own loader is not used: before torch 2.10, `weights_only=True` has a known hole (CVE-2026-24747), and torch 2.7 is
supported. Checkpoints of this project's own trainings are not foreign: see docs/explanation/security.md.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.torch_archive import load_torch_archive

SUFFIX = ".safetensors"
PICKLED_WEIGHTS = "open_clip_pytorch_model.bin"
"""Name of open_clip for weights that torch saved."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    PICKLED_WEIGHTS,
)


def check_weights_file(file: Path, key: str) -> None:
    """Refuse a file of weights that is missing or is named as no file that can be read. Nothing of it is read.

    Args:
        file: file of weights.
        key: configuration key that gave it, for messages.

    Raises:
        ConfigError: names what can be read.
    """
    if not file.is_file():
        raise ConfigError(f"{key}: {file} does not exist; give a file of weights ({_known()})")
    if file.suffix not in (SUFFIX, *_PICKLED):
        raise ConfigError(
            f"{key}: {file} is no file of weights that can be read ({_known()}); "
            "docs/explanation/security.md says how to convert it"
        )


def find_weights_file(folder: Path, key: str) -> Path:
    """Return the file of weights of a model folder: safetensors if there is one.

    Of several, open_clip's own names come first, then the alphabet.

    Raises:
        ConfigError: there is none.
    """

    def rank(file: Path) -> tuple[bool, int, str]:
        name = file.name
        return file.suffix != SUFFIX, _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED), name

    found = [file for file in folder.iterdir() if file.suffix in (SUFFIX, *_PICKLED) and file.is_file()]
    if not found:
        raise ConfigError(f"{key}: {folder} contains no weights; give a folder with a file of weights ({_known()})")
    return min(found, key=rank)


def load_weights_file(file: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, on the CPU.

    Args:
        file: a safetensors file; or one of `torch.save` with a state dict, or with one under `state_dict`.
        key: configuration key that gave it, for messages.

    Raises:
        ConfigError: as `check_weights_file`, or the file is damaged.
    """
    check_weights_file(file, key)
    if file.suffix != SUFFIX:
        try:
            return load_torch_archive(file)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
    try:
        return dict(load_file(file))
    # An unknown type of numbers in the header is a KeyError.
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{key}: {file} cannot be read as tensors ({error}); export or fetch it again") from None


def _known() -> str:
    return f"{SUFFIX}, or of torch.save: {', '.join(_PICKLED)}"
