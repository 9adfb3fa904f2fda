"""What a rank does about SIGTERM, seen from outside; no torch."""

import os
import signal
import subprocess
import sys

import pytest

from clips_pipeline.training.interrupt import INTERRUPTED

CODE = """
import os, signal, sys
from clips_pipeline.training.interrupt import INTERRUPTED, Interrupt

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
