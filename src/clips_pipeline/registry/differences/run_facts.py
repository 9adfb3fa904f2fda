"""What is known of one run, wherever it was read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from statistics import median
from typing import Any

from clips_pipeline.config import flatten, to_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.events.event_log import STEP_NUMBERS, Event

Curve = Mapping[int, float]
"""Values by step."""

SPEED = "samples_per_s"
_LATEST = 2**37  # seconds since 1970, four thousand years
_NOT_CURVES = ("data_wait_fraction",)
_FILES = ("model.initial_weights", "model.vision_weights", "model.text_weights")


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run. What was not recorded is missing or empty.

    Attributes:
        name: the name that the user gave.
        place: the run folder, or the MLflow run.
        parameters: by dotted key, those of the training (`train.…`) with all defaults.
        data: digests by what they are of.
        code: commit, uncommitted changes, digest of the source.
        code_files: digest of each source file.
        versions: Python, CUDA, and packages.
        hardware: device, ranks, processors.
        history: events that are no curves, oldest first.
        curves: values by step, by the names of the event log: `loss/total`, `validation/mean_recall@1`, `samples_per_s`.
        results: metrics of evaluations, by name; only MLflow has them.
    """

    name: str
    place: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    code_files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[Event] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)

    @property
    def speed(self) -> float | None:
        """Median of the samples per second of all logged steps; None if none is logged."""
        logged = self.curves.get(SPEED, {})
        return median(logged.values()) if logged else None


def valid_events(content: Iterable[Any]) -> list[Event]:
    """Return the events that have the form of the event log; others, of a damaged or foreign record, are left out."""
    return [event for event in content if isinstance(event, dict) and _is_valid(event)]


def _is_valid(event: Event) -> bool:
    time = event.get("time", 0)
    if not isinstance(event.get("kind"), str) or not isinstance(time, int | float) or not 0 <= time < _LATEST:
        return False
    if not isinstance(event.get("resumed_from"), str | None):
        return False
    mappings = [event.get(name, {}) for name in ("hardware", "versions", "git", "values", "losses", "metrics")]
    mappings += [event["versions"].get("packages", {})] if isinstance(event.get("versions"), dict) else []
    if not all(isinstance(mapping, dict) for mapping in mappings):
        return False
    if event["kind"] in ("step", "evaluation"):
        return isinstance(event.get("step"), int) and ("losses" if event["kind"] == "step" else "metrics") in event
    return all(isinstance(value, list) and len(value) == 2 for value in event.get("values", {}).values())


def default_parameters() -> dict[str, Any]:
    """Return the default of every parameter of a training, by dotted key."""
    return flatten({"train": to_mapping(TrainConfig())})


def training_parameters(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run spec, by dotted key; files are named by their last parts, which are digests or names."""
    found = flatten({"train": train})
    for name in _FILES:
        if isinstance(path := found.get(f"train.{name}"), str):
            found[f"train.{name}"] = PurePath(path).name
    return found


def surroundings_of(history: Sequence[Event]) -> dict[str, dict[str, str]]:
    """Return code, versions and hardware of the latest start."""
    start = next((event for event in reversed(history) if event["kind"] == "start"), {})
    versions = dict(start.get("versions", {}))
    packages = versions.pop("packages", {})
    git = start.get("git", {})
    code = {
        "commit": git.get("commit"),
        "uncommitted changes": _changes(git) if git else None,
        "source of the package": start.get("code"),
    }
    return {
        "code": _texts(code),
        "versions": _texts({**{name: versions.get(name) for name in versions}, **packages}),
        "hardware": _texts(start.get("hardware", {})),
    }


def curves_of(events: Sequence[Event]) -> dict[str, dict[int, float]]:
    """Return the curves of an event log."""
    curves: dict[str, dict[int, float]] = {}
    for event in events:
        values: dict[str, Any] = {}
        if event["kind"] == "step":
            values = {f"loss/{name}": value for name, value in event["losses"].items()}
            values |= {name: event[name] for name in STEP_NUMBERS if name in event and name not in _NOT_CURVES}
        elif event["kind"] == "evaluation":
            values = {f"validation/{name}": value for name, value in event["metrics"].items()}
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, {})[int(event["step"])] = float(value)
    return curves


def _changes(git: Mapping[str, Any]) -> str:
    if not git.get("dirty"):
        return "none"
    return f"yes, digest {git['patch']}" if git.get("patch") else "yes, too large to keep"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the known values as texts."""
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}
