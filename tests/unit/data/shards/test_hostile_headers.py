"""Headers that make `tarfile` loop or recurse are refused before `tarfile` reads them; samples before them are read."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from tests.unit.data.samples import record, write_shard

from clips_pipeline.data.shards.tar_file import BadSampleError, TarFile
from clips_pipeline.data.shards.tar_headers import scan

BLOCK = 512


def header(kind: bytes, size: bytes, name: bytes = b"evil") -> bytes:
    made = bytearray(BLOCK)
    made[: len(name)] = name
    made[100:108], made[124:136], made[156:157] = b"0000644\0", size.ljust(12, b"\0"), kind
    made[257:265] = b"ustar\x0000"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def extended(kind: bytes, content: bytes) -> bytes:
    return header(kind, b"%011o" % len(content)) + content + bytes(-len(content) % BLOCK)


def gzip_in_a_tar(inner: bytes) -> bytes:
    """Return a file of a tar whose header is that of a gzip file, too, which holds `inner`.

    gzip takes the header for the name and the comment of its file, which end with a NUL.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = b"\0" + packer.compress(inner) + packer.flush() + struct.pack("<II", zlib.crc32(inner), len(inner))
    made = bytearray(b"x" * BLOCK)
    made[:100] = b"\x1f\x8b\x08\x18aaaa\x02\x03" + b"k" * 86 + b".png"
    made[124:148] = b"%011o 00000000000 " % len(content)
    made[156:157], made[257:265] = b"0", b"ustar\x0000"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o  " % sum(made)
    return bytes(made) + content + bytes(-len(content) % BLOCK)


MINUS_512 = b"\xff" * 10 + b"\xfe\x00"
FILE = extended(b"0", b"text")
HOSTILE = {
    "negative size, unknown type": (header(b"Z", MINUS_512), "a file of -512 bytes"),
    "negative size, octal": (header(b"Z", b"-0000001000"), "is no size"),
    "negative size of a file": (header(b"0", MINUS_512), "a file of -512 bytes"),
    "PAX header of digits": (extended(b"x", b"1" * 83_000) + FILE, "an extended header of 83000 bytes"),
    "short PAX header of digits": (extended(b"x", b"1" * 60_000) + FILE, "a record of an extended header is damaged"),
    "chained long names": (extended(b"L", b"a\0") * 2_000 + FILE, "more than 4 extended headers"),
    "chained PAX headers": (extended(b"x", b"11 path=ab\n") * 2_000 + FILE, "more than 4 extended headers"),
    "PAX size of 40 digits": (extended(b"x", b"50 size=" + b"9" * 41 + b"\n") + FILE, "gives the size"),
    "global name": (extended(b"g", b"11 path=ab\n") + FILE, "sets the path of every file"),
    "gzip with a bomb": (
        gzip_in_a_tar(extended(b"0", bytes(1 << 24))),
        "a name that begins like a compressed file",
    ),
    "gzip in a long name": (header(b"L", b"4", b"\x1f\x8b\x08") + bytes(BLOCK) + FILE, "like a compressed file"),
    "bzip2": (header(b"0", b"0", b"BZh91AY&SY.png"), "like a compressed file"),
    "zstd": (header(b"0", b"0", b"\x28\xb5\x2f\xfd.png"), "like a compressed file"),
    "xz": (header(b"0", b"0", b"\xfd7zXZ.png"), "like a compressed file"),
    "nothing to extend": (extended(b"x", b"11 path=ab\n"), "extends nothing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_end_the_shard_and_never_reach_tarfile(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, fault = HOSTILE[name]
    file = tmp_path / "a.tar"
    write_shard(file, [record(0), record(1)], "a.tar")
    whole = scan(file)
    file.write_bytes(file.read_bytes()[: whole.end] + content + bytes(2 * BLOCK))
    seen: list[int] = []
    opened = tarfile.open

    def open_watched(*args: object, **options: object) -> object:
        seen.append(len(options["fileobj"].getvalue()))  # type: ignore[attr-defined]
        return opened(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(tarfile, "open", open_watched)
    with TarFile(file) as tar:
        assert tar.keys == ["k0000", "k0001"]
        assert [tar.read(row).text for row in range(2)] == [b"web 0", b"web 1"]
        assert tar.find_damage() is not None
    assert sum(seen) == whole.end
    found = scan(file)
    assert found.members == whole.members
    assert found.fault is not None
    assert fault in found.fault


@pytest.mark.parametrize("name", HOSTILE)
def test_shard_that_starts_with_a_hostile_header_is_no_tar(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(HOSTILE[name][0] + bytes(2 * BLOCK))
    with pytest.raises(BadSampleError, match="unreadable_shard") as bad:
        TarFile(tmp_path / "a.tar")
    assert HOSTILE[name][1] in str(bad.value)


def test_a_shard_sorted_by_ending_takes_as_many_bytes_as_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for ending in ("jpg", "json", "txt"):
            for number in range(count):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = 4
                tar.addfile(member, io.BytesIO(b"text"))
    given = 0
    whole = io.BytesIO

    class CountingBytesIO(whole):
        def __init__(self, content: bytes) -> None:
            nonlocal given
            given += len(content)
            super().__init__(content)

    monkeypatch.setattr("clips_pipeline.data.shards.tar_file.io.BytesIO", CountingBytesIO)
    with TarFile(tmp_path / "a.tar") as shard:
        assert len(shard.interleaved) == count
        assert all(shard.read(row).image == b"text" for row in range(count))
    # Each file once, with its header and one block; not the whole tar for each sample.
    assert given == count * 3 * 2 * BLOCK


def test_other_kinds_of_members_are_ignored(tmp_path: Path) -> None:
    kinds = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for number, kind in enumerate(kinds):
            odd = tarfile.TarInfo(f"odd{number}.jpg")
            odd.type, odd.linkname = kind, "/etc/passwd" + "x" * 150 * (kind == tarfile.SYMTYPE)
            tar.addfile(odd)
            good = tarfile.TarInfo(f"good{number}.txt")
            good.size = 4
            tar.addfile(good, io.BytesIO(b"text"))
    with TarFile(tmp_path / "a.tar") as shard:
        assert shard.keys == [f"good{number}" for number in range(len(kinds))]
        assert shard.find_damage() is None
