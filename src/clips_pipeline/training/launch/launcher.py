"""Start the workers of a run spec and follow their event log: one road for 1 and for N processes.

Loads no torch. The caller gets every event through a function, may ask the workers to stop, and learns the outcome.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from clips_pipeline.data.storage.files import Options
from clips_pipeline.training.events.event_log import Event, EventReader
from clips_pipeline.training.launch.agent_process import GRACE_SECONDS, AgentProcess, kill_rank, temporary_folder
from clips_pipeline.training.launch.exit_status import POLL_SECONDS, Outcome, RunMonitor, TrainingInterruptedError
from clips_pipeline.training.launch.exit_status import TrainingFailedError as TrainingFailedError
from clips_pipeline.training.launch.failure import explain, silent
from clips_pipeline.training.launch.folder_lock import FOLLOWER, hold, wait_for_orphans
from clips_pipeline.training.launch.heartbeat import Heartbeat, HeartbeatMonitor, forget, silent_after_s
from clips_pipeline.training.launch.interrupt import INTERRUPTED, ORPHAN_SECONDS, InterruptHandler, exit_code_after
from clips_pipeline.training.launch.monitor import follow, show
from clips_pipeline.training.resume import checkpoint_store, run_folder
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec


def launch(
    spec: RunSpec,
    on_event: Callable[[Event], None],
    reader: EventReader | None = None,
    storage_options: Options | None = None,
) -> Outcome:
    """Train `spec` in `spec.train.launch.processes` ranks and wait; the same call resumes what was interrupted.

    With `spec.train.launch.start` false the ranks are started elsewhere, and this follows them.

    Args:
        spec: what to train.
        on_event: called in this process for every event, in order, while the workers train.
        reader: where in the log to begin; by default only events of this launch are handed out.
        storage_options: credentials for shards elsewhere (fsspec's options by protocol); they reach the workers through
            their environment and stand in no file.

    Raises:
        ConfigError: the run folder holds another training, or somebody trains there now.
        TrainingFailedError: a rank failed, died or hung; those that were started here have been ended.
        TrainingInterruptedError: a SIGTERM to one of its processes or Ctrl-C ended it, after a checkpoint.
    """
    folder = Path(spec.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder, FOLLOWER):
        wait_for_orphans(folder, ORPHAN_SECONDS + GRACE_SECONDS)
        return _launch(spec, on_event, reader, storage_options or {})


def _launch(
    spec: RunSpec, on_event: Callable[[Event], None], reader: EventReader | None, storage_options: Options
) -> Outcome:
    path = run_folder.write_spec(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    forget(Path(spec.run_folder))
    followed = RunMonitor(on_event)
    with InterruptHandler() as terminated:
        if spec.train.launch.start:
            _run(spec, path, followed, reader, rank_environment(storage_options), terminated)
        else:
            follow(spec, path, followed, reader, show, terminated)
    return followed.outcome(terminated.by)


def _run(
    spec: RunSpec,
    path: Path,
    followed: RunMonitor,
    reader: EventReader,
    environment: dict[str, str],
    terminated: InterruptHandler,
) -> None:
    folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    silence = HeartbeatMonitor(folder)
    hung: tuple[Heartbeat, float] | None = None
    with temporary_folder(folder) as temporary, AgentProcess(path, environment | temporary) as agent:
        passed_on = False
        while agent.running():
            if terminated.asked and not passed_on:
                passed_on = True
                agent.terminate()
            followed.take(reader.read())
            heard = silence.look()
            quiet = silent(heard, timeout_s)
            # torchelastic knows only processes that end. This one now does, and the agent ends or restarts all.
            if (
                quiet is not None
                and (hung is None or heard[quiet][0].pid != hung[0].pid)
                and kill_rank(heard[quiet][0])
            ):
                hung = heard[quiet]
            time.sleep(POLL_SECONDS)
    heard = silence.look()
    if agent.exit_code is not None and agent.exit_code < 0:
        wait_for_orphans(folder, ORPHAN_SECONDS + GRACE_SECONDS)
    followed.take(reader.read())
    codes = agent.failed()
    ended = min(((rank, code) for rank, (_, code) in codes.items()), key=lambda one: (one[1] > 0, one[0]), default=None)
    asked_to_end = (INTERRUPTED, -signal.SIGTERM, 128 + signal.SIGTERM)
    if followed.interrupted is not None and (ended is None or ended[1] == INTERRUPTED):
        return
    if passed_on and (ended[1] if ended is not None else agent.exit_code) in asked_to_end:
        raise TrainingInterruptedError(
            f"interrupted by {terminated.by} before the first step; the same command begins there again",
            exit_code_after(terminated.by),
        )
    if followed.end is not None and agent.exit_code == 0:
        return
    # A rank that fell silent is to blame, also where its peers gave up first; not one whose end the agent has seen.
    named = {rank: told for rank, told in heard.items() if rank not in codes}
    quiet = silent(named, silent_after_s(timeout_s))
    if hung is not None and codes.get(hung[0].rank, (None, 0))[0] == hung[0].pid:
        quiet = hung[0].rank
    last = {rank: (sign, heard[rank][1] if rank in heard else 0.0) for rank, (sign, _) in silence.look().items()}
    if hung is not None and quiet == hung[0].rank:
        last[quiet] = hung
    logs = agent.log_of(spec.train.launch.processes)
    reason = explain(last, quiet, ended, followed.error, logs)
    raise TrainingFailedError(
        f"{reason}\nThe full output is in {agent.logs}.{_hint(spec, [sign for sign, _ in last.values()])}"
    )


def _hint(spec: RunSpec, signs: list[Heartbeat]) -> str:
    """How to go on, where the same command would."""
    if any(sign.final is not None for sign in signs):
        return ""
    if checkpoint_store.newest(spec.checkpoints) is None:
        return " There is no checkpoint yet; the same command begins again."
    return " The same command resumes from the last checkpoint."


def rank_environment(storage_options: Options) -> dict[str, str]:
    """This process's own, with what ranks need."""
    # Idle OpenMP threads that spin steal the cores from loader workers and from each other's ranks. A spin of microseconds
    # steals nothing and bridges the gaps between a small model's operations, where falling asleep costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    # An operation among GPUs that cannot end because of a dead rank ends the process.
    defaults["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
    # Ranks of one machine need no other interface, and nobody else needs to reach them.
    if Path("/sys/class/net/lo").exists():
        defaults |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    found = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**found, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else found
