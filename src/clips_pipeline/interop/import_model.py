"""Published weights as a model folder of this project: from a folder of open_clip's form, or from the hub."""

import re
import tempfile
from pathlib import Path

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.interop.folder import check_replaceable, save_model
from clips_pipeline.interop.hub import fetch_model
from clips_pipeline.interop.open_clip_folder import Origin, load_open_clip_folder, origin_of

_REPOSITORY = re.compile(r"(?:hf-hub:)?([\w-][\w.-]*/[\w-][\w.-]*)")


def import_model(source: str, out: Path, *, revision: str | None = None, vocabulary: Path | None = None) -> Origin:
    """Write the model in `source` as a model folder, without a captioner. A folder at `out` is replaced at the end.

    Args:
        source: a folder of open_clip's form (`open_clip_folder`), or the id of a repository of the hub (`OWNER/NAME`).
        out: folder to write.
        revision: commit, tag or branch of the repository; None is its newest commit.
        vocabulary: `vocab.txt` or `tokenizer.json`, if the source has none.

    Raises:
        ConfigError: there is no such model, it cannot be fetched, or it is none of CLIPS' form.
    """
    folder, commit = _folder(source, revision)
    if out.resolve() == folder.resolve():
        raise ConfigError(f"{out}: is the source itself; give another folder")
    check_replaceable(out)
    loaded = load_open_clip_folder(folder, vocabulary)
    origin = origin_of(folder, source, commit)
    with tempfile.TemporaryDirectory() as temporary:
        loaded.tokenizer.save(temporary)
        save_model(loaded.model, Path(temporary), loaded.images.to_mapping(), out, to_mapping(origin))
    return origin


def default_name(source: str) -> str:
    """Return the last part of a source as a name of a model."""
    return re.sub(r"[^\w.-]+", "-", Path(source.removeprefix("hf-hub:")).resolve().name).strip("-.") or "imported"


def _folder(source: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder of a source, fetched if it is on the hub, and its commit."""
    folder = Path(source)
    found = _REPOSITORY.fullmatch(source)
    if folder.is_dir() or found is None:
        if not folder.is_dir():
            raise ConfigError(f"{source}: no such folder, and no id of a repository (OWNER/NAME)")
        if revision is not None:
            raise ConfigError(f"--revision {revision}: {source} is a folder, which has none; leave it out")
        return folder, None
    return fetch_model(found[1], revision)
