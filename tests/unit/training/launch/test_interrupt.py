"""Interrupts of a rank and of the launcher; no torch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
from clips_pipeline.training.launch.interrupt import INTERRUPTED, InterruptHandler
from clips_pipeline.training.launch.result import RunState, TrainingInterruptedError
from clips_pipeline.training.run_spec import RunSpec

CODE = """
import os, signal, sys
from clips_pipeline.training.launch.interrupt import INTERRUPTED, Interrupt

class Late:
    # Destroyed with the module, after Python has restored the default handlers.
    def __del__(self, kill=os.kill, process=os.getpid(), number=int(signal.SIGTERM)):
        kill(process, number)

late, interrupt = Late(), Interrupt()
interrupt.install()
os.kill(os.getpid(), signal.SIGTERM)
assert interrupt.reason == "SIGTERM"
if sys.argv[1] == "ignored":
    interrupt.ignore_sigterm()
sys.exit(INTERRUPTED)
"""


@pytest.mark.parametrize(("way", "code"), [("ignored", INTERRUPTED), ("default", -signal.SIGTERM)])
def test_a_second_sigterm_while_python_ends_leaves_the_exit_code(way: str, code: int) -> None:
    ended = subprocess.run([sys.executable, "-c", CODE, way], env={**os.environ}, timeout=60)
    assert ended.returncode == code


@pytest.mark.parametrize(
    ("number", "source", "exit_code"), [(signal.SIGTERM, "SIGTERM", INTERRUPTED), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_ctrl_c_and_sigterm_are_recorded(number: signal.Signals, source: str, exit_code: int) -> None:
    with InterruptHandler() as handler:
        signal.raise_signal(number)
        assert handler.source == source
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    state = RunState(lambda event: None)
    state.process([{"kind": "interrupted", "step": 7, "reason": "rank 0: SIGTERM"}])
    with pytest.raises(
        TrainingInterruptedError, match=r"^interrupted at step 7 \(.*a checkpoint was saved, and the same"
    ) as caught:
        state.result(handler.source)
    assert caught.value.exit_code == exit_code
    assert ("Ctrl-C" in str(caught.value)) == (number == signal.SIGINT)


@pytest.mark.parametrize("final", [1, INTERRUPTED])
def test_a_rank_whose_error_would_occur_again_is_not_restarted(tmp_path: Path, final: int) -> None:
    spec = RunSpec(TrainConfig(), shards="", tokenizer="", run_folder=str(tmp_path), model_folder="", data_version="")
    spec.save(tmp_path / "run_spec.json")
    with HeartbeatWriter(tmp_path, 1, 2, interval_s=1.0) as heartbeat:
        heartbeat.report_failure("train.x: no", final_exit_code=final)
    code = "import sys; from clips_pipeline.training.launch.worker_main import main; code = main(sys.argv[1:]); "
    code += "assert 'torch' not in sys.modules; sys.exit(code)"
    environment = {**os.environ, "TORCHELASTIC_RESTART_COUNT": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "run_spec.json")]
    assert subprocess.run(command, env=environment, timeout=60).returncode == final
