"""A short look copies only the beginning of remote shards, and finds the same samples as a whole copy."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from PIL import Image
from tests.hub_server import hub_server
from tests.servers import Fault, HttpServer, http_server, s3_server
from tests.unit.data.samples import record, write_shard

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.look.first_samples import FirstSamples, brief
from clips_pipeline.data.shards.records import SampleFields
from clips_pipeline.data.sources.in_place import TarTask, read_shard_records
from clips_pipeline.data.storage.files import Storage, StorageConfig
from clips_pipeline.data.storage.retry import StorageError

SAMPLES = 40
NAME = "00000.tar"


def noise(number: int, side: int = 256) -> bytes:
    """Return an image that no compression makes smaller: 0.2 MB at the default size."""
    stream = io.BytesIO()
    pixels_HWC = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels_HWC).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of 8 MB."""
    made = tmp_path_factory.mktemp("shards")
    write_shard(made / NAME, [record(number, image=noise(number)) for number in range(SAMPLES)], NAME)
    return made


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[HttpServer]:
    with http_server(folder, hang_s=5) as http:
        yield http


def first(address: str, samples: int = 3, **options: object) -> FirstSamples:
    return brief(Storage(StorageConfig(timeout_s=0.5, back_off_s=0.0), **options), samples, DEFAULT_LIMITS)  # type: ignore[arg-type]


def read(address: str, storage: Storage) -> list[object]:
    task = TarTask(address, SampleFields(), storage)
    return list(read_shard_records(address, storage, task.read))


def check(address: str, folder: Path, storage: FirstSamples) -> None:
    """Check that exactly the first samples are read, from a copy of a part of the file."""
    whole = read(str(folder / NAME), Storage())
    assert read(address, storage) == whole[: storage.samples]
    with storage.local_copy(address) as copy, tarfile.open(copy) as tar:
        assert 0 < copy.stat().st_size < 0.3 * (folder / NAME).stat().st_size
        assert len(tar.getnames()) == 3 * storage.samples
    assert not copy.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_http_with_and_without_range_requests(served: HttpServer, folder: Path, ranges: bool) -> None:
    served.ranges = ranges
    check(f"{served.url}/{NAME}", folder, first(NAME))


def test_s3(folder: Path) -> None:
    with s3_server() as s3:
        options = s3.options["s3"]
        client = boto3.client(
            "s3",
            aws_access_key_id=options["key"],
            aws_secret_access_key=options["secret"],
            **options["client_kwargs"],
        )
        client.upload_file(str(folder / NAME), s3.bucket, NAME)
        client.close()
        check(f"s3://{s3.bucket}/{NAME}", folder, first(NAME, options=s3.options))


def test_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub_server() as hub:
        hub.files["datasets/owner/pairs"] = {f"data/{NAME}": (folder / NAME).read_bytes()}
        options = {"hf": {"endpoint": hub.url, "token": False}}
        check(f"hf://datasets/owner/pairs/data/{NAME}", folder, first(NAME, options=options))


def test_a_command_is_ended_once_enough_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WDS_SECURE", raising=False)
    config = StorageConfig(allow_pipe=True, timeout_s=5.0)
    # The command would go on forever.
    check(f"pipe:cat {folder / NAME} - < /dev/zero", folder, brief(Storage(config), 3, DEFAULT_LIMITS))
    with pytest.raises(ConfigError, match="allow_pipe"):
        read(f"pipe:cat {folder / NAME}", first(NAME))


def test_a_local_shard_is_not_copied(folder: Path) -> None:
    with first(NAME).local_copy(str(folder / NAME)) as path:
        assert path == folder / NAME


def test_more_samples_than_there_are_copy_the_whole_shard(served: HttpServer, folder: Path) -> None:
    address = f"{served.url}/{NAME}"
    assert read(address, first(NAME, samples=SAMPLES + 5)) == read(str(folder / NAME), Storage())


def test_a_text_is_copied_whole(served: HttpServer, folder: Path) -> None:
    (folder / "nshards.txt").write_text("7\n")
    with first(NAME).local_copy(f"{served.url}/nshards.txt") as path:
        assert path.read_text() == "7\n"


@pytest.mark.parametrize("kind", ["hang", "503"])
def test_a_server_that_hangs_or_fails_gives_one_error_soon(served: HttpServer, kind: str) -> None:
    served.faults[NAME] = Fault(kind)
    try:
        with pytest.raises(StorageError, match=rf"{NAME}: 2 attempts, the last one failed with "):
            read(f"{served.url}/{NAME}", first(NAME))
    finally:
        served.faults.clear()


def test_a_file_that_is_no_tar_ends_the_look(served: HttpServer, folder: Path) -> None:
    (folder / "noise.tar").write_bytes(os.urandom(3 << 20))
    storage = FirstSamples(StorageConfig(), {}, 3, DEFAULT_LIMITS, max_bytes=2 << 20)
    with pytest.raises(
        StorageError, match=r"noise.tar: no complete sample in the first .* check that it is a tar of samples"
    ):
        read(f"{served.url}/noise.tar", storage)


def test_slow_bytes_end_after_the_samples_that_arrived(served: HttpServer, folder: Path) -> None:
    # Samples of 20 kB: the first piece from the network, of 64 kB to 1 MB, holds some of them, and never all.
    write_shard(folder / "small.tar", [record(number, image=noise(number, 80)) for number in range(400)], "small.tar")
    storage = FirstSamples(StorageConfig(), {}, 300, DEFAULT_LIMITS, max_seconds=0.0)
    found = read(f"{served.url}/small.tar", storage)
    assert 0 < len(found) < 300
    assert found == read(str(folder / "small.tar"), Storage())[: len(found)]
