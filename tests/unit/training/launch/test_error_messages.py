"""How a rank words what ended it."""

import pytest

from clips_pipeline.config import ConfigError
from clips_pipeline.training.launch.worker import told


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("train.x: no"), "train.x: no"),
        (ValueError("odd"), "ValueError: odd"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "RuntimeError: DataLoader worker (pid 7) is killed"),
        (ConfigError("Caught ConfigError in DataLoader worker.\nTraceback\nConfigError: shard 3: cut"), "shard 3: cut"),
    ],
)
def test_what_is_known_is_said_as_it_is(error: Exception, message: str) -> None:
    assert told(error) == message


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError("none")])
def test_a_loader_killed_while_it_hands_over_a_batch_is_named(error: Exception) -> None:
    assert told(error).startswith("DataLoader worker ended while it handed over a batch")
    assert type(error).__name__ in told(error)
