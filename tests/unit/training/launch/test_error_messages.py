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
