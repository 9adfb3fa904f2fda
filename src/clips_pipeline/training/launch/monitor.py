"""Monitoring of ranks that torchrun, SLURM or Kubernetes starts. Does not import torch.

These ranks run the same module on the same run spec as those that the launcher starts. All that is known of them is what they
write to the run folder, on a file system that they share with this process.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich import get_console

from clips_pipeline.training.events.event_log import EventReader, read_all
from clips_pipeline.training.launch.failure import explain_failure, silent_rank
from clips_pipeline.training.launch.heartbeat import HeartbeatMonitor, read_heartbeats, silent_after_s
from clips_pipeline.training.launch.interrupt import InterruptHandler, exit_code_after
from clips_pipeline.training.launch.result import (
    POLL_SECONDS,
    RANK_MODULE,
    RunState,
    TrainingFailedError,
    TrainingInterruptedError,
)
from clips_pipeline.training.run_spec import RunSpec

RESTART_SECONDS = 20.0
"""Time after an error event in which torchrun may restart the ranks (`torchrun --max-restarts`)."""


def start_commands(spec: RunSpec, path: Path) -> str:
    """Return the commands that start the ranks of the run spec in `path`: on this machine, on several, and under SLURM."""
    torchrun, processes = Path(sys.executable).with_name("torchrun"), spec.train.launch.processes
    worker = f"-m {RANK_MODULE} {path}"
    return (
        f"The run spec is {path}. Start its ranks in one of these ways, where this folder is mounted (docs/how-to/cluster.md):\n"
        f"\non this machine:\n{torchrun} --standalone --nproc-per-node {processes} {worker}\n"
        f"\non each of NODES machines, of which HOST is one:\n{torchrun} --nnodes NODES --nproc-per-node GPUS "
        f"--rdzv-backend c10d --rdzv-endpoint HOST:29500 --rdzv-id {spec.fingerprint} {worker}\n"
        f"\nunder SLURM (it calls srun):\nsbatch --export=ALL,PYTHON={sys.executable},SPEC={path} examples/slurm.sbatch"
    )


def monitor_ranks(
    spec: RunSpec,
    path: Path,
    state: RunState,
    reader: EventReader,
    show_commands: Callable[[str], None],
    interrupt: InterruptHandler,
) -> None:
    """Read the event log until the training has ended; `state.end` is then its `end` event.

    Waits without limit for the first heartbeat: a queue may be long. From then on a rank that falls silent is a failure.

    Args:
        spec: run spec of the training.
        path: file of the run spec.
        state: processes the events.
        reader: reads the event log.
        show_commands: prints the commands that start the ranks.
        interrupt: whether this process was interrupted.

    Raises:
        TrainingInterruptedError: this process was interrupted; the ranks continue.
        TrainingFailedError: the ranks failed, or sent neither events nor heartbeats for `launch.rank_timeout_s`. They are not
            ended here: what started them has to do that.
    """
    state.process(reader.read())
    if _is_finished(spec):
        state.end = next(event for event in reversed(read_all(spec.events)) if event["kind"] == "end")
        return
    state.end = state.error = None  # these were of an earlier start
    show_commands(start_commands(spec, path))
    run_folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    earlier = {heartbeat.rank: heartbeat.written_at for heartbeat in read_heartbeats(run_folder)}
    monitor = HeartbeatMonitor(run_folder)
    last_event_at, error_at = time.monotonic(), None
    while state.end is None:
        time.sleep(POLL_SECONDS)
        if interrupt.interrupted:
            raise TrainingInterruptedError(
                f"interrupted by {interrupt.source}; the ranks continue, and the same command monitors them again",
                exit_code_after(interrupt.source),
            )
        now = time.monotonic()
        for event in reader.read():
            state.process([event])
            last_event_at = now
            error_at = {"error": now, "start": None}.get(event["kind"], error_at)
        heartbeats = {
            rank: (heartbeat, age)
            for rank, (heartbeat, age) in monitor.poll().items()
            if heartbeat.written_at != earlier.get(rank)
        }
        silent = silent_rank(heartbeats, timeout_s) if now - last_event_at > timeout_s else None
        failed = error_at is not None and now - error_at > RESTART_SECONDS
        all_ended = bool(heartbeats) and all(heartbeat.ended for heartbeat, _ in heartbeats.values())
        not_restarted = all_ended and min(age for _, age in heartbeats.values()) > RESTART_SECONDS
        if state.end is None and (failed or not_restarted or silent is not None):
            silent = silent_rank(heartbeats, silent_after_s(timeout_s))
            raise TrainingFailedError(
                f"{explain_failure(heartbeats, silent, None, state.error, {})}\nEnd the job if it still runs, then start this "
                "command and the ranks again: they resume from the last checkpoint."
            )


def print_commands(text: str) -> None:
    """Print to the terminal without breaking long lines, so that commands can be copied."""
    get_console().print(text, soft_wrap=True, highlight=False, markup=False)


def _is_finished(spec: RunSpec) -> bool:
    """Return whether the model is trained and exported, so that no rank has to be started. (DVC deletes it before a stage.)"""
    if not spec.events.exists() or not (Path(spec.model_folder) / "model.safetensors").is_file():
        return False
    last = next(
        (event for event in reversed(read_all(spec.events)) if event["kind"] in ("end", "start", "error")), None
    )
    return last is not None and last["kind"] == "end" and bool(last["finished"])
