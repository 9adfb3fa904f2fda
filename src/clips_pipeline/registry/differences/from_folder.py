"""Facts about a run from its run folder; no tracking server is needed."""

import json
from pathlib import Path

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.registry.differences.run_facts import (
    RunFacts,
    curves_of,
    surroundings_of,
    training_parameters,
    valid_events,
)
from clips_pipeline.training.events.event_log import HISTORY, read_all
from clips_pipeline.training.resume.run_folder import CODE_FILES, SPEC
from clips_pipeline.training.run_spec import RunSpec, load_spec

_MAX_SHOWN = 8


def find_run_folder(name: str, runs: Path) -> Path | None:
    """Return the run folder with this path, or with this name under `runs`; None if there is none."""
    for folder in (Path(name), runs / name):
        if (folder / SPEC).is_file():
            return folder
    return None


def unknown_run(name: str, runs: Path) -> ConfigError:
    """Return the error for a name that is no run."""
    known = sorted((path.parent for path in runs.glob(f"*/{SPEC}")), key=lambda folder: -folder.stat().st_mtime_ns)
    shown = ", ".join(folder.name for folder in known[:_MAX_SHOWN]) or "none"
    more = f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else ""
    return ConfigError(
        f"{name}: no run; give runs:/ID, models:/NAME/VERSION, models:/NAME@ALIAS, or a run folder with a {SPEC}. In {runs}: "
        f"{shown}{more}"
    )


def read_folder(name: str, folder: Path) -> RunFacts:
    """Return what a run folder says.

    Raises:
        ConfigError: its run spec cannot be read.
    """
    spec = load_spec(folder / SPEC)
    try:
        events = valid_events(read_all(folder / "events.jsonl"))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ConfigError(f"{folder}/events.jsonl: damaged ({error}); restore it, or compare by runs:/ID") from None
    history = [event for event in events if event["kind"] in HISTORY]
    found = surroundings_of(history)
    return RunFacts(
        name,
        str(folder),
        training_parameters(to_mapping(spec.train)),
        data_of(spec),
        found["code"],
        read_code_files(folder / CODE_FILES, found["code"].get("source of the package")),
        found["versions"],
        found["hardware"],
        history,
        curves_of(events),
    )


def data_of(spec: RunSpec) -> dict[str, str]:
    """Return the digests of the data of a training."""
    known = {"shards": spec.data_version, "tokenizer": spec.tokenizer_version}
    return {name: digest for name, digest in known.items() if digest}


def read_code_files(folder: Path, digest: str | None) -> dict[str, str]:
    """Return the digest of each source file of the code with this digest; empty if they are unknown."""
    try:
        content = json.loads((folder / f"{digest}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else {}
