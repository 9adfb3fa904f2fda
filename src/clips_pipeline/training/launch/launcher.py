"""Start and monitoring of the ranks of a run spec. Does not import torch.

One rank and many are started in the same way. The caller receives every event through a function and gets the result; creating a
file requests a stop.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from clips_pipeline.data.storage.files import StorageOptions
from clips_pipeline.training.events.event_log import Event, EventReader
from clips_pipeline.training.launch.agent_process import GRACE_SECONDS, AgentProcess, kill_rank, temporary_folder
from clips_pipeline.training.launch.failure import explain_failure, silent_rank
from clips_pipeline.training.launch.folder_lock import LAUNCHER, lock_run_folder, wait_for_orphans
from clips_pipeline.training.launch.heartbeat import Heartbeat, HeartbeatMonitor, remove_heartbeats, silent_after_s
from clips_pipeline.training.launch.interrupt import INTERRUPTED, ORPHAN_SECONDS, InterruptHandler, exit_code_after
from clips_pipeline.training.launch.monitor import monitor_ranks, print_commands
from clips_pipeline.training.launch.result import (
    POLL_SECONDS,
    RunState,
    TrainingInterruptedError,
    TrainingResult,
)
from clips_pipeline.training.launch.result import TrainingFailedError as TrainingFailedError
from clips_pipeline.training.resume import checkpoint_store, run_folder
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec


def launch(
    spec: RunSpec,
    on_event: Callable[[Event], None],
    reader: EventReader | None = None,
    storage_options: StorageOptions | None = None,
) -> TrainingResult:
    """Train `spec` in `spec.train.launch.processes` ranks and wait. Calling it again resumes an interrupted training.

    With `spec.train.launch.start` false, the ranks are started elsewhere and this function only monitors them. To stop the
    training after the next logged step, create the file `spec.stop_flag`.

    Args:
        spec: what to train.
        on_event: called in this process for every event, in order, while the ranks train.
        reader: reader of the event log; default: a reader of the events of this launch only.
        storage_options: credentials for shards on remote storage (fsspec's options by protocol). They reach the ranks through
            their environment and are written to no file.

    Returns:
        The last step, whether the training is finished (False after a stop request), the last held-out metrics, and skipped
        samples.

    Raises:
        ConfigError: the run folder holds another training, or another process trains there now.
        TrainingFailedError: a rank failed, died or hung. Ranks that were started here have been ended.
        TrainingInterruptedError: SIGTERM or Ctrl-C interrupted the training. A checkpoint was saved if a step had been
            trained. With `launch.start` false, only the monitoring ends and the ranks continue.
    """
    folder = Path(spec.run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run_folder(folder, LAUNCHER):
        wait_for_orphans(folder, ORPHAN_SECONDS + GRACE_SECONDS)
        return _launch(spec, on_event, reader, storage_options or {})


def _launch(
    spec: RunSpec, on_event: Callable[[Event], None], reader: EventReader | None, storage_options: StorageOptions
) -> TrainingResult:
    path = run_folder.write_spec(spec)
    spec.stop_flag.unlink(missing_ok=True)
    if reader is None:
        reader = EventReader(spec.events, offset=spec.events.stat().st_size if spec.events.exists() else 0)
    remove_heartbeats(Path(spec.run_folder))
    state = RunState(on_event)
    with InterruptHandler() as interrupt:
        if spec.train.launch.start:
            _run_agent(spec, path, state, reader, rank_environment(storage_options), interrupt)
        else:
            monitor_ranks(spec, path, state, reader, print_commands, interrupt)
    return state.result(interrupt.source)


def _run_agent(
    spec: RunSpec,
    path: Path,
    state: RunState,
    reader: EventReader,
    environment: dict[str, str],
    interrupt: InterruptHandler,
) -> None:
    folder, timeout_s = Path(spec.run_folder), spec.train.launch.rank_timeout_s
    monitor = HeartbeatMonitor(folder)
    hung_rank: tuple[Heartbeat, float] | None = None
    with temporary_folder(folder) as temporary, AgentProcess(path, environment | temporary) as agent:
        terminated = False
        while agent.is_running():
            if interrupt.interrupted and not terminated:
                terminated = True
                agent.terminate()
            state.process(reader.read())
            heartbeats = monitor.poll()
            silent = silent_rank(heartbeats, timeout_s)
            # torchelastic sees only processes that end, not those that hang. Once the rank is killed, the agent ends or
            # restarts all ranks.
            newly_silent = silent is not None and (hung_rank is None or heartbeats[silent][0].pid != hung_rank[0].pid)
            if silent is not None and newly_silent and kill_rank(heartbeats[silent][0]):
                hung_rank = heartbeats[silent]
            time.sleep(POLL_SECONDS)
    heartbeats = monitor.poll()
    if agent.exit_code is not None and agent.exit_code < 0:
        wait_for_orphans(folder, ORPHAN_SECONDS + GRACE_SECONDS)
    state.process(reader.read())
    exit_codes = agent.failed_ranks()
    exits = ((rank, code) for rank, (_, code) in exit_codes.items())
    # Ranks that a signal killed take precedence over ranks that failed.
    first_exit = min(exits, key=lambda rank_and_code: (rank_and_code[1] > 0, rank_and_code[0]), default=None)
    if state.interrupted is not None and (first_exit is None or first_exit[1] == INTERRUPTED):
        return
    interrupt_codes = (INTERRUPTED, -signal.SIGTERM, 128 + signal.SIGTERM)
    if terminated and (first_exit[1] if first_exit is not None else agent.exit_code) in interrupt_codes:
        raise TrainingInterruptedError(
            f"interrupted by {interrupt.source} before the first step; the same command starts again",
            exit_code_after(interrupt.source),
        )
    if state.end is not None and agent.exit_code == 0:
        return
    # A silent rank is the cause, even if other ranks failed first while waiting for it. Ranks with a known exit code are not
    # silent.
    silent = silent_rank({r: aged for r, aged in heartbeats.items() if r not in exit_codes}, silent_after_s(timeout_s))
    if hung_rank is not None and exit_codes.get(hung_rank[0].rank, (None, 0))[0] == hung_rank[0].pid:
        silent = hung_rank[0].rank
    latest_heartbeats = {
        rank: (heartbeat, heartbeats[rank][1] if rank in heartbeats else 0.0)
        for rank, (heartbeat, _) in monitor.poll().items()
    }
    if hung_rank is not None and silent == hung_rank[0].rank:
        latest_heartbeats[silent] = hung_rank
    reason = explain_failure(
        latest_heartbeats, silent, first_exit, state.error, agent.stderr_logs(spec.train.launch.processes)
    )
    hint = _resume_hint(spec, [heartbeat for heartbeat, _ in latest_heartbeats.values()])
    raise TrainingFailedError(f"{reason}\nThe full output is in {agent.logs}.{hint}")


def _resume_hint(spec: RunSpec, heartbeats: list[Heartbeat]) -> str:
    """Return how to resume; nothing where the same command would fail again."""
    if any(heartbeat.final_exit_code is not None for heartbeat in heartbeats):
        return ""
    if checkpoint_store.latest_folder(spec.checkpoints) is None:
        return " There is no checkpoint yet; the same command starts again."
    return " The same command resumes from the last checkpoint."


def rank_environment(storage_options: StorageOptions) -> dict[str, str]:
    """Return the environment of the ranks: that of this process, with defaults for OpenMP, NCCL and gloo."""
    # Spinning OpenMP threads take cores from loader workers and other ranks. A short spin costs little; sleeping in the gaps
    # between the small operations of a small model costs a fifth of a step.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "PYTHONUNBUFFERED": "1"}
    # A collective operation among GPUs that cannot complete because of a dead rank ends the process.
    defaults["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"
    # Ranks of one machine need no other interface, and must not be reachable from other machines.
    if Path("/sys/class/net/lo").exists():
        defaults |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    environment = {**defaults, **os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**environment, STORAGE_OPTIONS: json.dumps(storage_options)} if storage_options else environment
