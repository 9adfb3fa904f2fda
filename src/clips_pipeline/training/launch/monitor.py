"""Follow a training whose ranks somebody else starts: torchrun, SLURM, Kubernetes. Loads no torch.

The ranks run the same module on the same spec as those that `launch` starts; what is known of them is what they write into the
run folder, which they share with this process.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from clips_pipeline.training.events.event_log import EventReader, read_all
from clips_pipeline.training.launch.exit_status import (
    POLL_SECONDS,
    WORKER,
    RunMonitor,
    TrainingFailedError,
    TrainingInterruptedError,
)
from clips_pipeline.training.launch.failure import explain, silent
from clips_pipeline.training.launch.heartbeat import HeartbeatMonitor, read_heartbeats, silent_after_s
from clips_pipeline.training.launch.interrupt import InterruptHandler, exit_code_after
from clips_pipeline.training.run_spec import RunSpec

RESTART_SECONDS = 20.0
"""After an error event, for a starter that starts the ranks again by itself (`torchrun --max-restarts`)."""


def commands(spec: RunSpec, path: Path) -> str:
    """How to start the ranks of the spec in `path`: on this machine, on several, and under SLURM."""
    torchrun, processes = Path(sys.executable).with_name("torchrun"), spec.train.launch.processes
    worker = f"-m {WORKER} {path}"
    return (
        f"The run spec is {path}. Start its ranks in one of these ways, where this folder is mounted (docs/cluster.md):\n"
        f"\non this machine:\n{torchrun} --standalone --nproc-per-node {processes} {worker}\n"
        f"\non each of NODES machines, of which HOST is one:\n{torchrun} --nnodes NODES --nproc-per-node GPUS "
        f"--rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id {spec.fingerprint} {worker}\n"
        f"\nunder SLURM (it calls srun):\nsbatch --export=ALL,PYTHON={sys.executable},SPEC={path} examples/slurm.sbatch"
    )


def follow(
    spec: RunSpec,
    path: Path,
    followed: RunMonitor,
    reader: EventReader,
    say: Callable[[str], None],
    terminated: InterruptHandler,
) -> None:
    """Read the event log until the training has ended; `followed` then has its `end`.

    Waits without limit for the first sign of life: a queue may be long. From then on silence counts.

    Args:
        spec: of the training.
        path: where it stands as a file.
        followed: takes the events.
        reader: of the event log.
        say: shows the commands to a person.
        terminated: whether this process was asked to end.

    Raises:
        TrainingInterruptedError: this process was asked to end; the ranks go on.
        TrainingFailedError: the ranks failed, or nothing has come of them for `launch.rank_timeout_s`. They are not ended:
            whoever started them does that.
    """
    followed.take(reader.read())
    if _is_done(spec):
        followed.end = next(event for event in reversed(read_all(spec.events)) if event["kind"] == "end")
        return
    followed.end = followed.error = None  # of an earlier start
    say(commands(spec, path))
    run_folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    before = {sign.rank: sign.told for sign in read_heartbeats(run_folder)}
    silence = HeartbeatMonitor(run_folder)
    news_at, error_at = time.monotonic(), None
    while followed.end is None:
        time.sleep(POLL_SECONDS)
        if terminated.asked:
            raise TrainingInterruptedError(
                f"interrupted by {terminated.by}; the ranks are left alone, and the same command follows them again",
                exit_code_after(terminated.by),
            )
        now = time.monotonic()
        for event in reader.read():
            followed.take([event])
            news_at = now
            error_at = {"error": now, "start": None}.get(event["kind"], error_at)
        heard = {rank: told for rank, told in silence.look().items() if told[0].told != before.get(rank)}
        over = bool(heard) and all(sign.over for sign, _ in heard.values())
        quiet = silent(heard, timeout_s) if now - news_at > timeout_s else None
        given_up = error_at is not None and now - error_at > RESTART_SECONDS
        gone = over and min(seconds for _, seconds in heard.values()) > RESTART_SECONDS
        if followed.end is None and (given_up or gone or quiet is not None):
            quiet = silent(heard, silent_after_s(timeout_s))
            raise TrainingFailedError(
                f"{explain(heard, quiet, None, followed.error, {})}\nEnd the job if it still runs, then start this "
                "command and the ranks again: they resume from the last checkpoint."
            )


def show(text: str) -> None:
    """To the terminal, long lines whole, so that they can be copied."""
    Console(stderr=True).print(text, soft_wrap=True, highlight=False, markup=False)


def _is_done(spec: RunSpec) -> bool:
    """Trained to the end and exported, so that no rank needs to be started. (DVC deletes the model before a stage.)"""
    if not spec.events.exists() or not (Path(spec.model_folder) / "model.safetensors").is_file():
        return False
    last = next(
        (event for event in reversed(read_all(spec.events)) if event["kind"] in ("end", "start", "error")), None
    )
    return last is not None and last["kind"] == "end" and bool(last["finished"])
