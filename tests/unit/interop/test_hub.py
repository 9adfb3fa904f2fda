"""The hub, in front of a stand-in server: what is fetched, what is pushed and what is not.

The client reads its environment once, so each test has processes of its own; a script of several calls saves some.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import COMMIT, TOKEN, HubServer, hub_server
from tests.unit.interop.export_models import write_model
from tests.unit.interop.published import save_published

from clips_pipeline.config import ConfigError
from clips_pipeline.interop.export.open_clip_form import write_open_clip
from clips_pipeline.interop.export.transformers_form import write_transformers
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.interop.hub import push_folder
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

COMMAND = str(Path(sys.executable).with_name("clips-pipeline"))
NAME = "UCSC-VLAA/ViT-tiny-CLIPS"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as found:
        yield found


def run(hub: HubServer, folder: Path, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=hub.environment(folder / "home", token),
        capture_output=True,
        text=True,
        check=False,
    )


TRIES = """
import sys
from pathlib import Path
from clips_pipeline.config import ConfigError
from clips_pipeline.interop.hub import fetch_model, push_folder
def attempt(call, *arguments, **options):
    try:
        call(*arguments, **options)
        print("done")
    except ConfigError as error:
        print(error)
"""


def attempts(hub: HubServer, folder: Path, *calls: str, token: str | None = TOKEN) -> list[str]:
    """Return what each call of `attempt` prints: `done`, or its error."""
    code = "\n".join([TRIES, "export = Path('export')", *(f"attempt({call})" for call in calls)])
    environment = hub.environment(folder / "home", token)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder as `export` writes it; `push` does not read the weights."""
    folder = tmp_path / "export"
    (folder / "model").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "model/model.safetensors").write_bytes(bytes(range(256)) * 64)
    (folder / "model/config.json").write_text("{}\n")
    (folder / "model/modeling_clips.py").write_text("import torch\n")
    return folder


@pytest.mark.parametrize("safe", ["both", pytest.param(False, marks=pytest.mark.slow)])
def test_a_repository_is_imported_with_its_revision_and_digest(
    hub: HubServer, tmp_path: Path, fixtures_dir: Path, safe: Any
) -> None:
    vocabulary = fixtures_dir / "bert_base_uncased_vocab.txt"
    published = save_published(tmp_path / "published", vocabulary, safe=safe)
    hub.files[NAME] = {file.name: file.read_bytes() for file in published.iterdir()}
    done = run(hub, tmp_path, "import", NAME, "--revision", "main", token=None)
    assert done.returncode == 0, done.stderr
    assert "not registered, because this is no project" in done.stdout
    origin = load_model_folder(tmp_path / "data/06_models/imported/ViT-tiny-CLIPS").config["origin"]
    weights = "open_clip_model.safetensors" if safe else "open_clip_pytorch_model.bin"
    assert (origin["source"], origin["revision"], origin["license"]) == (NAME, COMMIT, "apache-2.0")
    assert (origin["weights"], origin["weights_sha256"]) == (weights, hub.digest(hub.files[NAME][weights]))


def test_what_cannot_be_fetched_is_one_error(hub: HubServer, tmp_path: Path) -> None:
    hub.files["me/empty"] = {"README.md": b"# nothing"}
    hub.files["me/pickle"] = {"open_clip_config.json": b"{}", "other.bin": b""}
    hub.files[NAME] = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"damaged on the way"}
    hub.wrong_digest = True
    names = ("me/nothing", "me/empty", "me/pickle", NAME, "no name")
    found = attempts(hub, tmp_path, *(f"fetch_model, {name!r}, None" for name in names))
    expected = (
        "check OWNER/NAME",
        "has no open_clip_config.json",
        "has no open_clip_pytorch_model.bin",
        "is not the file that",
        "give OWNER/NAME",
    )
    for text, message in zip(found, expected, strict=True):
        assert message in text


def test_an_export_is_pushed_in_one_commit(hub: HubServer, tmp_path: Path, export: Path) -> None:
    done = run(hub, tmp_path, "push", str(export), "me/model")
    assert done.returncode == 0, done.stderr
    sent = {file.relative_to(export).as_posix(): file.read_bytes() for file in export.rglob("*") if file.is_file()}
    assert hub.files["me/model"] == sent
    assert hub.private["me/model"]
    assert len(hub.commits) == 1
    assert TOKEN not in done.stdout + done.stderr


def test_a_public_repository_is_asked_for(hub: HubServer, tmp_path: Path, export: Path) -> None:
    hub.files |= {"me/open": {}, "me/closed": {"old.txt": b""}}
    hub.private["me/closed"] = True
    hub.refuse.add("/api/models/me/locked/commit")
    names = ("'me/closed'", "'me/open'", "'me/open', public=True", "'me/new', public=True", "'me/locked'")
    found = attempts(hub, tmp_path, *(f"push_folder, export, {name}" for name in names))
    assert [line for line in found if line == "done"] == ["done"] * 3
    assert "me/open: is public already; give --public" in found[1]
    assert "me/locked: cannot be pushed: HfHubHTTPError" in found[4]
    assert set(hub.files["me/closed"]) == {"old.txt", *hub.files["me/open"]}
    assert (hub.private["me/new"], hub.files["me/locked"]) == (False, {})


def test_what_exports_consist_of_is_accepted(hub: HubServer, tmp_path: Path, fixtures_dir: Path) -> None:
    bert = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    byte_pairs = ClipBpeTokenizer.from_merges(fixtures_dir / "bpe_simple_vocab_16e6.txt.gz")
    for name, tokenizer in (("bert", bert), ("bpe", byte_pairs)):
        (tmp_path / name).mkdir()
        loaded = load_model_folder(write_model(tmp_path / name, tokenizer))
        for form, write in (("export", write_transformers), ("open_clip", write_open_clip)):
            out = tmp_path / name / form
            out.mkdir()
            write(loaded, out)
            (out / "README.md").write_text("---\nlibrary_name: clips\n---\n")
    folders = [f"{name}/{form}" for name in ("bert", "bpe") for form in ("export", "open_clip")]
    names = [f"me/{folder.replace('/', '-')}" for folder in folders]
    calls = (f"push_folder, Path({folder!r}), {name!r}" for folder, name in zip(folders, names, strict=True))
    assert attempts(hub, tmp_path, *calls) == ["done"] * 4
    assert "vision/1_Pooling/config.json" in hub.files["me/bert-export"]


def test_without_a_token_nothing_is_sent(hub: HubServer, tmp_path: Path, export: Path) -> None:
    (found,) = attempts(hub, tmp_path, "push_folder, export, 'me/model'", token=None)
    assert "set HF_TOKEN, or log in once with `hf auth login`" in found
    assert (hub.tokens, hub.files) == (set(), {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (".env", b"A=1", r"\.env: is no file of an export"),
        ("model/.git/config", b"", "is no file of an export"),
        ("notes.docx", b"", "is no file of an export"),
        ("model/notes.txt", b"password=hunter2222", r"notes\.txt: contains what looks like a password or token"),
        ("README.md", b"---\ntags: [clip]\n---\n", "names no license, which a public model needs"),
    ],
)
def test_folders_with_other_files_are_refused(export: Path, name: str, content: bytes, message: str) -> None:
    (export / name).parent.mkdir(parents=True, exist_ok=True)
    (export / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        push_folder(export, "me/model", public=True)


def test_links_and_other_folders_are_refused(export: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (export / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ConfigError, match=r"link\.json: is no file of an export"):
        push_folder(export, "me/model")
    with pytest.raises(ConfigError, match=r"has no README\.md, so it is no export"):
        push_folder(tmp_path / "nowhere", "me/model")
