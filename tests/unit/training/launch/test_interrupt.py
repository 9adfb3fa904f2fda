"""What a rank does about SIGTERM, seen from outside; no torch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.launch.exit_status import RunMonitor, TrainingInterruptedError
from clips_pipeline.training.launch.heartbeat import HeartbeatWriter
from clips_pipeline.training.launch.interrupt import INTERRUPTED, InterruptHandler
from clips_pipeline.training.run_spec import RunSpec

CODE = """
import os, signal, sys
from clips_pipeline.training.launch.interrupt import INTERRUPTED, Interrupt

class Late:
    # Destroyed with the module, when Python has already put the default handlers back.
    def __del__(self, kill=os.kill, process=os.getpid(), number=int(signal.SIGTERM)):
        kill(process, number)

late, interrupt = Late(), Interrupt()
interrupt.listen()
os.kill(os.getpid(), signal.SIGTERM)
assert interrupt.reason == "SIGTERM"
if sys.argv[1] == "over":
    interrupt.over()
sys.exit(INTERRUPTED)
"""


@pytest.mark.parametrize(("way", "code"), [("over", INTERRUPTED), ("open", -signal.SIGTERM)])
def test_a_second_sigterm_while_python_ends_leaves_the_exit_code(way: str, code: int) -> None:
    ended = subprocess.run([sys.executable, "-c", CODE, way], env={**os.environ}, timeout=60)
    assert ended.returncode == code


@pytest.mark.parametrize(
    ("number", "by", "exit_code"), [(signal.SIGTERM, "SIGTERM", INTERRUPTED), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_ctrl_c_is_noted_as_a_sigterm_is(number: signal.Signals, by: str, exit_code: int) -> None:
    with InterruptHandler() as terminated:
        signal.raise_signal(number)
        assert terminated.by == by
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    followed = RunMonitor(lambda event: None)
    followed.take([{"kind": "interrupted", "step": 7, "reason": "rank 0: SIGTERM"}])
    with pytest.raises(
        TrainingInterruptedError, match=r"^interrupted at step 7 \(.*with a checkpoint; the same"
    ) as caught:
        followed.outcome(terminated.by)
    assert caught.value.exit_code == exit_code
    assert ("Ctrl-C" in str(caught.value)) == (number == signal.SIGINT)


@pytest.mark.parametrize("final", [1, INTERRUPTED])
def test_what_ended_for_good_is_not_started_again(tmp_path: Path, final: int) -> None:
    spec = RunSpec(TrainConfig(), shards="", tokenizer="", run_folder=str(tmp_path), model_folder="", data_version="")
    spec.save(tmp_path / "run_spec.json")
    with HeartbeatWriter(tmp_path, 1, 2, every_s=1.0) as life:
        life.failed("train.x: no", final=final)
    code = "import sys; from clips_pipeline.training.launch.worker_main import main; code = main(sys.argv[1:]); "
    code += "assert 'torch' not in sys.modules; sys.exit(code)"
    environment = {**os.environ, "TORCHELASTIC_RESTART_COUNT": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "run_spec.json")]
    assert subprocess.run(command, env=environment, timeout=60).returncode == final
