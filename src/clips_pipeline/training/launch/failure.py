"""Why a training failed: which rank, on which host, how, and the last lines of its log. Does not import torch."""

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from clips_pipeline.io.redact import redact
from clips_pipeline.training.launch.heartbeat import Heartbeat, describe_ranks

TAIL_LINES = 15
# Loader workers of a dead rank lose their pipe. Their tracebacks do not show the cause.
_LOST_CONNECTION = re.compile(
    r"(^(Exception in thread|Process |During handling of|Error in atexit).*\n|^\n)*^Traceback \(most recent call last\):\n"
    r"(^[ \t].*\n)+^(\w+\.)*(ConnectionResetError|ConnectionRefusedError|BrokenPipeError|EOFError)\b.*\n?",
    re.MULTILINE,
)


def silent_rank(heartbeats: Mapping[int, tuple[Heartbeat, float]], timeout_s: float) -> int | None:
    """Return the rank with the oldest heartbeat if that is older than `timeout_s`. A rank that has ended is not silent."""
    ages = {rank: age for rank, (heartbeat, age) in heartbeats.items() if age > timeout_s and not heartbeat.ended}
    return max(ages, key=lambda rank: ages[rank], default=None)


def restart_reason(heartbeats: list[Heartbeat]) -> str:
    """Return in one line why an attempt failed, from the last heartbeats of its ranks.

    A rank that ended without reporting an error comes first.
    """
    killed = [heartbeat for heartbeat in heartbeats if not heartbeat.ended]
    failed = _failed(heartbeats)
    if killed:
        return f"{killed[0].name} ended without reporting an error, as when the system kills it"
    return f"{failed[0].name} failed: {failed[0].error}" if failed else "no rank reported an error"


def explain_failure(
    heartbeats: Mapping[int, tuple[Heartbeat, float]],
    silent: int | None,
    first_exit: tuple[int, int] | None,
    error: str | None,
    logs: Mapping[int, Path],
) -> str:
    """Return the cause of a failure, where all ranks were, and the last lines of the log of the rank that failed.

    A silent rank comes before one that a signal killed, since the others abort when they have waited long enough. A killed rank
    comes before the first error, since the death of a rank is an error to its peers.

    Args:
        heartbeats: by rank, its last heartbeat and the age of that in seconds.
        silent: the rank that fell silent, if one did.
        first_exit: the rank that failed first and its exit code, as far as the caller has seen it.
        error: the message of the event log.
        logs: log files by rank, as far as they are on this machine.
    """
    last = {rank: heartbeat for rank, (heartbeat, _) in heartbeats.items()}
    failed = _failed(last.values())
    if silent is not None:
        rank, cause = silent, f"has sent no heartbeat for {heartbeats[silent][1]:.0f} s"
    elif first_exit is not None and first_exit[1] < 0:
        rank, cause = first_exit[0], f"was killed by {signal_name(-first_exit[1])}"
    elif failed and (len(last) == 1 or [heartbeat.error for heartbeat in failed].count(failed[0].error) > 1):
        return failed[0].error or ""  # an error of the configuration or the data, not of one rank
    elif failed:
        rank, cause = failed[0].rank, f"failed: {failed[0].error}"
    elif error is not None:
        return error
    elif first_exit is not None:
        rank, cause = first_exit[0], f"ended with exit code {first_exit[1]}"
    else:
        return "the ranks ended without reporting an error"
    lines = [f"{last[rank].name if rank in last else f'rank {rank}'} {cause}"]
    if len(last) > 1:
        lines += ["Last heartbeats of the ranks:", describe_ranks(last.values())]
    if rank in logs:
        text = tail(logs[rank])
        lines += [f"The last lines of {logs[rank]}:", text] if text else [f"It wrote nothing to {logs[rank]}."]
    return "\n".join(lines)


def signal_name(number: int) -> str:
    """Return the name of a signal, for SIGKILL with what usually sends it."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (which the system sends when memory runs out)" if name == "SIGKILL" else name


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log, redacted and without tracebacks that only show a lost connection."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return redact("\n".join(_LOST_CONNECTION.sub("", text).splitlines()[-lines:]))


def _failed(heartbeats: Iterable[Heartbeat]) -> list[Heartbeat]:
    """Return the heartbeats with an error, the earliest error first."""
    failed = [heartbeat for heartbeat in heartbeats if heartbeat.error]
    return sorted(failed, key=lambda heartbeat: heartbeat.failed_at or 0.0)
