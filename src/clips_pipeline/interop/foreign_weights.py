"""Weights that others wrote are read from safetensors only.

A pickle can run code when it is loaded. torch before 2.10 has a known hole in its loader that should forbid this
(`weights_only=True`, CVE-2026-24747), and Composer requires torch 2.7. Checkpoints of this project's own trainings are not
foreign: see docs/security.md.
"""

import shlex
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clips_pipeline.config import ConfigError

SUFFIX = ".safetensors"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")

# One line, to be run where this package is not installed. Shared tensors are copied, since safetensors refuses them.
CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    'w = torch.load(sys.argv[1], map_location="cpu", weights_only=True); w = w.get("state_dict", w); '
    'save_file({n.removeprefix("module."): t.clone().contiguous() for n, t in w.items()}, sys.argv[2])'
)
"""Python program that converts the checkpoint of its first argument to the safetensors file of its second."""


def check_weights_file(file: Path, key: str) -> None:
    """Refuse a file of weights that is missing or is not named as safetensors. Nothing of it is read.

    Args:
        file: file of weights.
        key: configuration key that gave it, for messages.

    Raises:
        ConfigError: names the command that converts the file.
    """
    if not file.is_file():
        raise ConfigError(f"{key}: {file} does not exist; give the file of a checkpoint, in safetensors")
    if file.suffix != SUFFIX:
        command = shlex.join(["python", "-c", CONVERT, str(file), str(file.with_suffix(SUFFIX))])
        raise ConfigError(
            f"{key}: {file} is no safetensors file, and pickled weights of others are not loaded (docs/security.md); convert it "
            f"with torch 2.10 or later, or in a container without data and credentials, which it may damage: {command}"
        )


def find_weights_file(folder: Path, key: str) -> Path:
    """Return the safetensors file of a model folder. Of several, open_clip's own names come first, then the alphabet.

    Raises:
        ConfigError: there is none.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found = [file for file in files if file.suffix == SUFFIX]
    if found:
        return min(found, key=lambda file: _PREFERRED.index(file.name) if file.name in _PREFERRED else len(_PREFERRED))
    for file in files:
        if file.suffix in _PICKLED:
            check_weights_file(file, key)
    raise ConfigError(f"{key}: {folder} contains no weights; give a folder with a {SUFFIX} file")


def load_weights_file(file: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        ConfigError: as `check_weights_file`, or the file is damaged.
    """
    check_weights_file(file, key)
    try:
        return dict(load_file(file))
    # An unknown type of numbers in the header is a KeyError.
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{key}: {file} cannot be read as tensors ({error}); export or fetch it again") from None
