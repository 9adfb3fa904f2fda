"""The hub of Hugging Face: published weights are fetched from it, and exports are pushed to it.

Tokens are those of `huggingface_hub`: the variable HF_TOKEN, or the stored login of `hf auth login`. The variable HF_ENDPOINT
names another server. `push` imports no torch, so that it starts fast.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.open_clip_config import CONFIG_FILE, first_line
from clips_pipeline.io.digests import file_sha256
from clips_pipeline.io.redact import redact

README: Final = "README.md"
_TOKENIZER_FILES = ("vocab.txt", "tokenizer.json")
# What exports consist of. Whatever else lies in a folder is not ours to publish.
_SAFETENSORS = ".safetensors"
_PUBLISHED = (_SAFETENSORS, ".json", ".md", ".onnx", ".py", ".txt")
_TEXTS = (".json", ".md", ".py", ".txt")
_LICENSE = "\nlicense: "
_SPECIAL_TOKENS = re.compile(r'"(?:bos|eos|unk|cls|pad|sep|mask)_token": "\[\w{1,20}\]"')


def fetch_model(repository: str, revision: str | None) -> tuple[Path, str]:
    """Fetch a model in open_clip's form into the cache of `huggingface_hub`, and return its folder and commit.

    Weights in safetensors are preferred. Their SHA-256 is compared with the one that the hub states.

    Args:
        repository: OWNER/NAME.
        revision: commit, tag or branch; None is the newest commit.

    Raises:
        ConfigError: there is no such repository, it has no such files, or it cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from clips_pipeline.interop.foreign_weights import PICKLED_WEIGHTS

    with _one_error(f"{repository}: cannot be fetched"):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        files = {one.rfilename: one for one in info.siblings or ()}
        weights = min(
            (name for name in files if name.endswith(_SAFETENSORS) and "/" not in name), default=PICKLED_WEIGHTS
        )
        wanted = [CONFIG_FILE, weights]
        for name in wanted:
            if name not in files:
                raise ConfigError(
                    f"{repository}: has no {name}; give the repository of a model in open_clip's form, such as "
                    "UCSC-VLAA/ViT-L-14-CLIPS-224-Recap-DataComp-1B"
                )
        wanted += [name for name in (*_TOKENIZER_FILES, README) if name in files]
        paths = {name: Path(hf_hub_download(repository, name, revision=info.sha)) for name in wanted}
    stated = getattr(files[weights].lfs, "sha256", None)
    if stated is not None and file_sha256(paths[weights]) != stated:
        raise ConfigError(
            f"{paths[weights]}: is not the file that {repository} has (SHA-256 {stated}); delete it and fetch it again"
        )
    return paths[CONFIG_FILE].parent, str(info.sha)


def push_folder(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload an export as one commit; the repository is created if it does not exist.

    Args:
        folder: folder that `export` wrote.
        repository: OWNER/NAME.
        public: whether a new repository is public, and whether one that is public already may be used.

    Returns:
        address of the commit.

    Raises:
        ConfigError: the folder is no export or has files that do not belong to one, no token is given, the repository is public
            without `public`, a public export has no license, or the hub refuses.
    """
    files = _published_files(folder, public)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = get_token()
    if token is None:
        raise ConfigError(
            f"{repository}: no token of the hub is given; set HF_TOKEN, or log in once with `hf auth login` (a token with write "
            "access; it is never an argument)"
        )
    with _one_error(f"{repository}: cannot be pushed"):
        api = HfApi(token=token)
        created = api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.model_info(created.repo_id).private:
            raise ConfigError(f"{repository}: is public already; give --public, or another repository")
        operations = [
            CommitOperationAdd(path_in_repo=file.relative_to(folder).as_posix(), path_or_fileobj=file) for file in files
        ]
        # One commit, so that the repository has the old or the new files.
        commit = api.create_commit(created.repo_id, operations, commit_message="Export of clips-pipeline")
    return str(commit.commit_url)


def _published_files(folder: Path, public: bool) -> list[Path]:
    """Return the files to upload; refuse a folder with others, or with what looks like a secret."""
    readme = folder / README
    if not readme.is_file():
        raise ConfigError(
            f"{folder}: has no {README}, so it is no export; write one with `clips-pipeline export MODEL {folder} --to …`"
        )
    entries = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in entries:
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if hidden or path.is_symlink() or path.suffix not in _PUBLISHED:
            raise ConfigError(f"{path}: is no file of an export; remove it, or export to a new folder")
        if path.suffix in _TEXTS:
            # Names of special tokens are no secrets: "bos_token": "[BOS]".
            text = _SPECIAL_TOKENS.sub("", path.read_text(encoding="utf-8", errors="replace"))
            if path.name not in _TOKENIZER_FILES and redact(text) != text:
                raise ConfigError(f"{path}: contains what looks like a password or token; remove it")
    if public and _LICENSE not in readme.read_text(encoding="utf-8").split("\n---", 1)[0]:
        raise ConfigError(
            f"{readme}: names no license, which a public model needs; export again with --license (such as apache-2.0)"
        )
    return entries


@contextmanager
def _one_error(what: str) -> Iterator[None]:
    """Turn what `huggingface_hub` and its HTTP client raise into one error without secrets."""
    remedies: dict[str, Any] = {
        "GatedRepoError": "ask for access on its page, and set HF_TOKEN",
        "RepositoryNotFoundError": "check OWNER/NAME; a private repository needs HF_TOKEN or `hf auth login`",
        "RevisionNotFoundError": "check --revision",
        "HFValidationError": "give OWNER/NAME",
    }
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # also that of the HTTP client, which is not this project's to name
        kinds = [kind.__name__ for kind in type(error).__mro__]
        remedy = next((remedies[kind] for kind in kinds if kind in remedies), "check the network, or try again later")
        raise ConfigError(f"{what}: {type(error).__name__}: {redact(first_line(error))}; {remedy}") from None
