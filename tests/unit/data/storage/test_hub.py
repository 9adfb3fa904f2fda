"""`hf://` addresses, in front of a stand-in for the hub that speaks what `huggingface_hub` really asks."""

import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.hub_server import COMMIT, TOKEN, HubServer, _Handler, hub_server

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkConfig, ClipBenchmarkSource
from clips_pipeline.data.storage import hub as hub_module
from clips_pipeline.data.storage.files import Storage, StorageConfig, StorageError

CONTENT = bytes(range(256)) * 40
NAME = "owner/pairs"
ROOT = f"hf://datasets/{NAME}"
QUICK = StorageConfig(retries=2, back_off_s=0.01, timeout_s=2.0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub_server() as found:
        names = [f"train-{number:04d}.tar" for number in range(9)]
        found.files[f"datasets/{NAME}"] = {"README.md": b"# Pairs", **{f"data/{name}": CONTENT for name in names}}
        yield found


def storage(hub: HubServer, token: str | bool = False) -> Storage:
    return pickle.loads(pickle.dumps(Storage(QUICK, {"hf": {"endpoint": hub.url, "token": token}})))  # noqa: S301


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_files_of_a_data_set(hub: HubServer, tmp_path: Path, revision: str) -> None:
    reading, address = storage(hub), f"{ROOT}{revision}/data/train-0003.tar"
    assert reading.size(address) == len(CONTENT)
    reading.fetch(address, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    with reading.open(address) as file:
        file.seek(1000)
        assert file.read(10) == CONTENT[1000:1010]
        file.seek(-5, 2)
        assert file.read() == CONTENT[-5:]
    wanted = [f"{ROOT}{revision}/data/train-{number:04d}.tar" for number in range(9)]
    assert reading.list(f"{ROOT}{revision}/data/train-*.tar") == wanted
    assert reading.identities(wanted) == [reading.identity(one) for one in wanted]


def test_changed_file_has_another_identity(hub: HubServer) -> None:
    before = storage(hub).identity(f"{ROOT}/data/train-0000.tar")
    hub.files[f"datasets/{NAME}"]["data/train-0000.tar"] = CONTENT[::-1]
    assert storage(hub).identity(f"{ROOT}/data/train-0000.tar") != before


def test_folder_of_many_files_is_listed_once(hub: HubServer) -> None:
    wanted = [f"{ROOT}/data/train-{number:04d}.tar" for number in range(9)]
    reading = storage(hub)
    hub.requests.clear()
    reading.identities(wanted)
    assert len(hub.requests) <= 2


def test_busy_hub_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.faults = [503, 500]
    storage(hub).fetch(f"{ROOT}/data/train-0000.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    hub.faults = [503] * 9
    with pytest.raises(StorageError, match=r"train-0000\.tar: 3 attempts, the last one failed with HfHubHTTPError"):
        storage(hub).fetch(f"{ROOT}/data/train-0000.tar", tmp_path / "b")


@pytest.mark.parametrize("silent", ["_data_set", "_data_file"])
def test_hub_that_falls_silent_is_given_up_after_the_retries(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent: str
) -> None:
    """`huggingface_hub` alone would wait forever for a list of files, and ask six times for a part of a file."""
    address, reading = (
        f"{ROOT}/data/train-0000.tar",
        Storage(
            StorageConfig(retries=1, back_off_s=0.01, timeout_s=0.2), {"hf": {"endpoint": hub.url, "token": False}}
        ),
    )
    reading.size(address)
    answer, over = getattr(_Handler, silent), threading.Event()

    def wait(handler: _Handler, name: str, *rest: Any) -> None:
        if silent == "_data_set" and not rest[0]:
            answer(handler, name, *rest)
            return
        asked.append(name)
        over.wait(20)
        handler.close_connection = True

    monkeypatch.setattr(_Handler, silent, wait)
    listing = (reading.size, lambda one: reading.list(one.replace("0000", "*")))
    try:
        for use in listing if silent == "_data_set" else (reading.open, lambda one: reading.fetch(one, tmp_path / "b")):
            asked: list[str] = []
            with pytest.raises(StorageError, match=r"2 attempts, the last one failed with ConnectionError: no answer"):
                use(address)
            assert len(asked) == 2
    finally:
        over.set()


def test_client_is_set_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time, it would close the client that another thread uses."""
    hub_module._limit_waiting.cache_clear()
    made: list[Any] = []

    def slow(factory: Any) -> None:
        time.sleep(0.05)
        made.append(factory)

    monkeypatch.setattr("huggingface_hub.set_client_factory", slow)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: hub_module.hub_options({}, 2.0), range(8)))
    finally:
        hub_module._limit_waiting.cache_clear()
    assert len(made) == 1


def test_token_opens_a_private_data_set(hub: HubServer, tmp_path: Path) -> None:
    hub.locked.add(f"datasets/{NAME}")
    storage(hub, TOKEN).fetch(f"{ROOT}/data/train-0000.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    with pytest.raises(
        StorageError, match=r"no such repository, or a private one \(401\).*conf/local/credentials\.yml"
    ):
        storage(hub).fetch(f"{ROOT}/data/train-0000.tar", tmp_path / "b")


@pytest.mark.parametrize(
    ("address", "token", "message"),
    [
        (f"{ROOT}@gone/data/train-0000.tar", False, r"no such revision \(404\); give a branch, tag or commit"),
        ("hf://datasets/owner/gone/a.tar", False, r"no such repository, or a private one \(401\); correct the address"),
        ("hf://datasets/owner/gone/a.tar", TOKEN, r"no such repository, or a private one \(404\)"),
        (f"{ROOT}/data/train-0000.tar", "hf_another-for-tests", r"does not accept the token \(401\); give a token"),
        (f"{ROOT}/data/gone.tar", False, r"one attempt, the last one failed with FileNotFoundError"),
        ("hf://datasets", False, r"one attempt, the last one failed with ValueError"),
    ],
)
def test_refusal_names_address_and_remedy(
    hub: HubServer, tmp_path: Path, address: str, token: str | bool, message: str
) -> None:
    reading = storage(hub, token)
    for use in (reading.size, reading.identity, reading.open, lambda one: reading.fetch(one, tmp_path / "b")):
        with pytest.raises(StorageError, match=message) as error:
            use(address)
        assert str(error.value).startswith(f"{address}: ")
        assert "for-tests" not in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.missing == ("gone.tar" in address)


def test_conditions_that_are_not_accepted(hub: HubServer, tmp_path: Path) -> None:
    hub.gated.add(f"datasets/{NAME}")
    with pytest.raises(StorageError, match=r"refuses access \(403\); accept the conditions on the page"):
        storage(hub, TOKEN).fetch(f"{ROOT}/data/train-0000.tar", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_uploaded_file_is_one_commit(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    storage(hub, TOKEN).upload(tmp_path / "a", f"{ROOT}/test/0.tar")
    assert hub.files[f"datasets/{NAME}"]["test/0.tar"] == CONTENT
    assert len(hub.commits) == 1
    with pytest.raises(StorageError, match=r"does not accept the token \(401\); give a token"):
        storage(hub, "hf_another-for-tests").upload(tmp_path / "a", f"{ROOT}/test/0.tar")


def test_set_of_clip_benchmark_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    from tests.unit.data.sources.test_clip_benchmark import _set

    _set(tmp_path / "set", [[("s0", "txt", b"One."), ("s1", "txt", b"A dog.\nA cat.")]], dataset_type="retrieval")
    hub.add_folder("clip-benchmark/wds_set", tmp_path / "set")
    root = "hf://datasets/clip-benchmark/wds_set"
    source = ClipBenchmarkSource(ClipBenchmarkConfig(f"{root}@main"), storage(hub))
    assert prepare(source, tmp_path / "shards").split_samples("test") == 2
    for wrong, message in (
        (f"{root}@v3", "no such revision"),
        (f"{root}s", "no such repository"),
        (f"{root}/a", "has no test"),
    ):
        with pytest.raises(ConfigError, match=rf"source\.clip_benchmark: {wrong}.*{message}"):
            ClipBenchmarkSource(ClipBenchmarkConfig(wrong), storage(hub))
