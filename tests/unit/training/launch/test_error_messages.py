"""Error messages of a rank."""

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.training.launch.worker import error_message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("train.x: no"), "train.x: no"),
        (ValueError("odd"), "ValueError: odd"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "RuntimeError: DataLoader worker (pid 7) is killed"),
        (ConfigError("Caught ConfigError in DataLoader worker.\nTraceback\nConfigError: shard 3: cut"), "shard 3: cut"),
    ],
)
def test_known_errors_keep_their_message(error: Exception, message: str) -> None:
    assert error_message(error) == message


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError("none"),
        RuntimeError("Pin memory thread exited unexpectedly"),
    ],
)
def test_a_loader_worker_killed_while_it_sends_a_batch_is_named(error: Exception) -> None:
    assert error_message(error).startswith("DataLoader worker ended while it sent a batch")
    assert type(error).__name__ in error_message(error)
