"""Files elsewhere: a real S3 server and a real HTTP server, well-behaved and not."""

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import S3, Http, Trouble, http_server, s3_server

from clips_pipeline.config import ConfigError
from clips_pipeline.shards.addresses import expand, is_remote
from clips_pipeline.shards.storage import Storage, StorageConfig, StorageError, shown

CONTENT = bytes(range(256)) * 40
QUICK = StorageConfig(retries=2, back_off_s=0.01, timeout_s=2.0)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as running:
        yield running


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(CONTENT)
    with http_server(folder) as running:
        yield running


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        ("/data/{00..02}.tar", ["/data/00.tar", "/data/01.tar", "/data/02.tar"]),
        ("a.tar::s3://b/{0..1}.tar", ["a.tar", "s3://b/0.tar", "s3://b/1.tar"]),
        (["b.tar", "{x,y}.tar"], ["b.tar", "x.tar", "y.tar"]),
        ("pipe:cat {0..1}.tar | tee a::b", ["pipe:cat 0.tar | tee a::b", "pipe:cat 1.tar | tee a::b"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_addresses(addresses: str | list[str], wanted: list[str]) -> None:
    assert expand(addresses) == wanted


@pytest.mark.parametrize(
    ("addresses", "message"), [("/data/{00..02.tar", "do not fit"), ("", "no address"), ([], "no address")]
)
def test_addresses_that_cannot_be_used(addresses: str | list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(addresses)


def test_what_is_remote() -> None:
    assert [is_remote(a) for a in ("s3://b/k", "http://h/f", "pipe:cat f", "/a/b", "a/b", "file:///a")] == [
        True
    ] * 3 + [False] * 3


def test_s3_there_and_back(s3: S3, tmp_path: Path) -> None:
    storage = pickle.loads(pickle.dumps(Storage(QUICK, s3.options)))  # noqa: S301
    (tmp_path / "a").write_bytes(CONTENT)
    storage.put(tmp_path / "a", "s3://data/some/where.tar")
    assert storage.size("s3://data/some/where.tar") == len(CONTENT)
    storage.fetch("s3://data/some/where.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    with storage.open("s3://data/some/where.tar") as file:
        file.seek(1000)
        assert file.read(10) == CONTENT[1000:1010]
    with storage.local("s3://data/some/where.tar") as path:
        assert path.read_bytes() == CONTENT
    assert not path.exists()
    assert storage.list("s3://data/some/*.tar") == ["s3://data/some/where.tar"]
    before = storage.identity("s3://data/some/where.tar")
    (tmp_path / "a").write_bytes(CONTENT[::-1])
    storage.put(tmp_path / "a", "s3://data/some/where.tar")
    assert storage.identity("s3://data/some/where.tar") != before


def test_many_identities_come_from_few_questions(s3: S3, http: Http, tmp_path: Path) -> None:
    storage = Storage(QUICK, s3.options)
    (tmp_path / "a").write_bytes(CONTENT)
    addresses = [f"s3://data/many/{number}.tar" for number in range(9)]
    for address in addresses:
        storage.put(tmp_path / "a", address)
    others = [f"{http.url}/a.tar", str(tmp_path / "a"), "s3://data/many/3.tar"]
    wanted = [storage.identity(address) for address in [*addresses, *others]]
    assert storage.identities([*addresses, *others]) == wanted
    with pytest.raises(StorageError, match=r"many/gone\.tar: one attempt"):
        storage.identities([*addresses, "s3://data/many/gone.tar"])


def test_s3_what_is_not_there_is_not_asked_for_again(s3: S3, tmp_path: Path) -> None:
    storage = Storage(QUICK, s3.options)
    with pytest.raises(
        StorageError, match=r"^s3://data/no\.tar: one attempt, the last one failed with FileNotFoundError"
    ):
        storage.fetch("s3://data/no.tar", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_shown(s3: S3) -> None:
    options = {"s3": {"key": "AKIA", "secret": "hush", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}}
    storage = Storage(StorageConfig(retries=0, timeout_s=1.0), options)
    with pytest.raises(StorageError) as error:
        storage.size("s3://data/a.tar")
    assert "hush" not in str(error.value) + repr(storage)
    assert shown("http://me:pw@host/f?X-Amz-Signature=abc failed") == "http://…@host/f?… failed"


def test_http(http: Http, tmp_path: Path) -> None:
    storage = Storage(QUICK)
    assert storage.size(f"{http.url}/a.tar") == len(CONTENT)
    storage.fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert http.gets("a.tar") == 1


@pytest.mark.parametrize("kind", ["503", "429", "drop", "hang"])
def test_trouble_that_passes_is_waited_out(http: Http, tmp_path: Path, kind: str) -> None:
    http.trouble["a.tar"] = Trouble(kind, times=2)
    Storage(StorageConfig(retries=2, back_off_s=0.01, timeout_s=0.5)).fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert http.gets("a.tar") == 3


@pytest.mark.parametrize(
    ("kind", "attempts", "cause"),
    [("503", 3, "503"), ("drop", 3, "ClientPayloadError"), ("404", 1, "FileNotFoundError"), ("403", 1, "403")],
)
def test_trouble_that_stays_is_one_clear_error(
    http: Http, tmp_path: Path, kind: str, attempts: int, cause: str
) -> None:
    http.trouble["a.tar"] = Trouble(kind)
    times = "one attempt" if attempts == 1 else f"{attempts} attempts"
    with pytest.raises(StorageError, match=rf"a\.tar: {times}, the last one failed with .*{cause}"):
        Storage(QUICK).fetch(f"{http.url}/a.tar", tmp_path / "b")
    assert http.gets("a.tar") == attempts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="3 attempts"):
        Storage(QUICK).fetch("http://127.0.0.1:9/a.tar", tmp_path / "b")


def _fetch(url: str, target: Path) -> None:
    Storage(QUICK).fetch(url, target)


def test_a_forked_process_makes_connections_of_its_own(http: Http, tmp_path: Path) -> None:
    _fetch(f"{http.url}/a.tar", tmp_path / "parent")
    worker = multiprocessing.get_context("fork").Process(target=_fetch, args=(f"{http.url}/a.tar", tmp_path / "child"))
    worker.start()
    worker.join(30.0)
    assert worker.exitcode == 0
    assert (tmp_path / "child").read_bytes() == CONTENT


def test_files_of_this_machine(tmp_path: Path) -> None:
    storage = Storage(QUICK)
    (tmp_path / "a").write_bytes(CONTENT)
    storage.put(tmp_path / "a", str(tmp_path / "new" / "b"))
    assert storage.size(str(tmp_path / "new" / "b")) == len(CONTENT)
    with storage.local(f"file://{tmp_path}/new/b") as path:
        assert path == tmp_path / "new" / "b"
    assert path.exists()
    storage.fetch(str(path), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == CONTENT
    with pytest.raises(StorageError, match="gone: one attempt"), storage.local(str(tmp_path / "gone")):
        pass


def test_commands_run_only_where_they_are_allowed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"would run a command in a shell.*storage\.allow_pipe"):
        Storage(QUICK).fetch(f"pipe:touch {tmp_path}/ran", target)
    assert not (tmp_path / "ran").exists()
    allowed = Storage(StorageConfig(retries=0, allow_pipe=True))
    allowed.fetch("pipe:printf hello", target)
    assert target.read_bytes() == b"hello"
    with pytest.raises(StorageError, match="ended with 3: oh no"):
        allowed.fetch("pipe:echo oh no >&2; exit 3", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_unknown_protocol_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"one attempt.*Protocol not known: nope"):
        Storage(QUICK).fetch("nope://x/a.tar", tmp_path / "b")


@pytest.mark.parametrize("change", [{"retries": -1}, {"timeout_s": 0.0}, {"cache_gib": 0.0}])
def test_impossible_settings(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        StorageConfig(**change)  # type: ignore[arg-type]
