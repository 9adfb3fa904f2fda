"""What matters most among the differences of two runs: the order of parameters, packages and curves, and what each can change."""

from collections.abc import Iterable, Sequence
from typing import Literal

Effect = Literal["result", "rounding", "none", "other"]
"""What a parameter of a run can change: what is trained, only the rounding of sums, nothing that is trained, or later stages."""

_PARAMETERS = (
    "train.method",
    "train.batch_size",
    "train.samples",
    "train.model.",
    "train.optimizer.",
    "train.loss.",
    "train.captions.",
    "train.augment.",
    "train.images.",
    "train.launch.precision",
    "train.launch.residual",
    "train.launch.communication",
    "train.ema",
    "train.freeze",
    "train.progressive",
    "train.seed",
    "train.shuffle_window",
    "train.",
    "prepare.",
)
_ROUNDING = (
    "processes",
    "sharding",
    "device",
    "compile",
    "chunk_size",
    "threads",
    "recompute",
    "tf32",
    "round_lengths_to",
    "device_color_jitter",
)
_PACKAGES = ("Python", "torch", "CUDA", "mosaicml", "numpy", "torchvision", "pillow", "simplejpeg", "tokenizers")
_HARDWARE = (
    "device",
    "GPUs",
    "ranks",
    "CPU",
    "cores",
    "threads of a rank",
    "loader workers of a rank",
    "ranks on a machine",
)
_CURVES = ("loss/total", "loss/contrastive", "loss/caption", "validation/mean_recall@1", "loss/", "validation/")

NOTES: dict[Effect, str] = {
    "result": "",
    "rounding": "changes only the rounding of sums",
    "none": "does not change what is trained",
    "other": "not of the training",
}


def effect(key: str) -> Effect:
    """Return what the parameter with a dotted key can change."""
    if not key.startswith(("train.", "prepare.")):
        return "other"
    if key.startswith("train.every."):
        return "none"
    group, _, name = key.rpartition(".")
    if group == "train.launch" and name not in ("precision", "residual", "communication"):
        return "rounding" if name in _ROUNDING else "none"
    return "result"


def sort_parameters(keys: Iterable[str]) -> list[str]:
    """Return the keys, those that most likely matter first."""
    effects: Sequence[Effect] = ("result", "rounding", "none", "other")
    return sorted(keys, key=lambda key: (effects.index(effect(key)), _place(key, _PARAMETERS), key))


def sort_versions(names: Iterable[str]) -> list[str]:
    """Return names of packages, those that compute first."""
    return sorted(names, key=lambda name: (_place(name, _PACKAGES), name))


def sort_hardware(names: Iterable[str]) -> list[str]:
    """Return names of properties of machines, those that compute first."""
    return sorted(names, key=lambda name: (_place(name, _HARDWARE), name))


def sort_curves(names: Iterable[str]) -> list[str]:
    """Return names of curves, the most telling first."""
    return sorted(names, key=lambda name: (_place(name, _CURVES), name))


def short_name(key: str) -> str:
    """Return a parameter's name for a sentence: `train.optimizer.peak_lr` gives "optimizer peak lr"."""
    for prefix in ("train.launch.", "train.model.", "train."):
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            break
    return key.replace(".", " ").replace("_", " ")


def _place(name: str, order: Sequence[str]) -> int:
    return next(
        (place for place, known in enumerate(order) if name == known or (known[-1] in "./" and name.startswith(known))),
        next((place for place, known in enumerate(order) if name.startswith(f"{known}.")), len(order)),
    )
