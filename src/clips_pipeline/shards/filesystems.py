"""fsspec's file systems as `shards.storage` uses them: with time-outs, and without retries of their own."""

import io
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from clips_pipeline.config import ConfigError

_CHUNK = 1 << 20


def file_system(address: str, options: Mapping[str, Mapping[str, Any]], timeout_s: float) -> tuple[Any, str]:
    """The file system of an address, and the path in it. fsspec keeps one per process and options.

    Args:
        address: a path or a URL.
        options: fsspec's, by protocol.
        timeout_s: seconds without a byte after which a request has failed.

    Raises:
        ValueError: nobody knows the protocol.
        ImportError: its package is not installed; the message names it.
    """
    from fsspec.core import url_to_fs

    protocol = address.split("://", 1)[0] if "://" in address else "file"
    fs, path = url_to_fs(address, **_patient(protocol, timeout_s, dict(options.get(protocol, {}))))
    if protocol == "s3":
        # With its own five on top of ours a server in trouble would be asked thirty times.
        fs.retries = 1
    return fs, path


def _patient(protocol: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    if protocol in ("http", "https", "gs", "gcs"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        name = "client_kwargs" if protocol.startswith("http") else "session_kwargs"
        options[name] = {"timeout": timeout, **options.get(name, {})}
    elif protocol == "s3":
        own = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = {**own, **options.get("config_kwargs", {})}
    return options


class RangeFile(io.RawIOBase):
    """A remote file, read at any place by requests for ranges.

    Args:
        size: in bytes.
        read: the bytes from one place to another; it may be called from any thread.
    """

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._at = size, read, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place that the next read begins at."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is."""
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        found = self._read(self._at, end)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def run_into(command: str, out: BinaryIO, timeout_s: float) -> None:
    """Write the output of a command to `out`, by webdataset's `Pipe`: in a shell, which is why it has to be allowed.

    webdataset's own switch (the environment variable `WDS_SECURE=1`) forbids it too, whatever the configuration says.

    Args:
        command: for `sh`.
        out: a file open for writing.
        timeout_s: seconds without a byte after which it is killed.

    Raises:
        ConfigError: webdataset's switch is set.
        TimeoutError: it was killed.
        OSError: it ended with an error; the message ends with what it said.
    """
    # Here and not above: it imports torch, which the process that starts `kedro` does without.
    from webdataset import utils
    from webdataset.gopen import Pipe

    if utils.enforce_security:
        raise ConfigError(
            "pipe: WDS_SECURE is set, so webdataset runs no commands; unset it, or use s3://, gs:// or http://"
        )
    with tempfile.TemporaryFile() as said:
        options = {"stdin": subprocess.DEVNULL, "stderr": said, "start_new_session": True}
        pipe = Pipe(command, mode="rb", shell=True, **options)  # noqa: S604 - allowed by storage.allow_pipe
        process = pipe.proc  # read directly: `Pipe` itself has no time-out for a command that hangs
        try:
            while True:
                if not select.select([process.stdout], [], [], timeout_s)[0]:
                    raise TimeoutError(f"the command gave nothing for {timeout_s:g} s")
                chunk = os.read(process.stdout.fileno(), _CHUNK)
                if not chunk:
                    break
                out.write(chunk)
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the command did not end within {timeout_s:g} s of its output") from None
        finally:
            if process.poll() is None:
                # The shell's children too.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
        if status:
            said.seek(0)
            tail = said.read().decode("utf-8", "replace").strip()[-300:]
            raise OSError(f"the command ended with {status}: {tail}")
