"""Why a training ended: which rank, where, how, and what it said last. Loads no torch."""

import re
import signal
from collections.abc import Mapping
from pathlib import Path

from clips_pipeline.training.launch.heartbeat import Heartbeat, describe_ranks

TAIL_LINES = 15
# Loader processes of a rank that is gone lose their pipe; their tracebacks say nothing of the cause.
_CONSEQUENCE = re.compile(
    r"(^(Exception in thread|Process |During handling of|Error in atexit).*\n|^\n)*^Traceback \(most recent call last\):\n"
    r"(^[ \t].*\n)+^(\w+\.)*(ConnectionResetError|ConnectionRefusedError|BrokenPipeError|EOFError)\b.*\n?",
    re.MULTILINE,
)


def silent(heard: Mapping[int, tuple[Heartbeat, float]], longest_s: float) -> int | None:
    """The rank that has been silent for longest, if that is longer than `longest_s`; one that has ended is not silent."""
    quiet = {rank: seconds for rank, (sign, seconds) in heard.items() if seconds > longest_s and not sign.over}
    return max(quiet, key=lambda rank: quiet[rank], default=None)


def restart_reason(signs: list[Heartbeat]) -> str:
    """Why an attempt failed, in one line, from what its ranks wrote last: one that ended without a word comes first."""
    gone = [sign for sign in signs if not sign.over]
    failed = sorted((sign for sign in signs if sign.error), key=lambda sign: sign.failed_at or 0.0)
    if gone:
        return f"{gone[0].name} ended without a word, as when the system kills it"
    return f"{failed[0].name} failed: {failed[0].error}" if failed else "it failed without saying why"


def explain(
    heard: Mapping[int, tuple[Heartbeat, float]],
    quiet: int | None,
    ended: tuple[int, int] | None,
    error: str | None,
    logs: Mapping[int, Path],
) -> str:
    """The cause, and who was where.

    A rank that fell silent comes before one that a signal ended, since the others abort when they have waited long enough;
    that before the first error, since the death of a rank is an error to its peers.

    Args:
        heard: by rank, its last sign and the seconds since.
        quiet: the rank that fell silent, if one did.
        ended: the rank that failed first and its exit code, as far as the caller has seen it.
        error: the message of the event log.
        logs: output by rank, as far as it is on this machine.
    """
    signs = {rank: sign for rank, (sign, _) in heard.items()}
    failed = sorted((sign for sign in signs.values() if sign.error), key=lambda sign: sign.failed_at or 0.0)
    if quiet is not None:
        rank, what = quiet, f"has given no sign of life for {heard[quiet][1]:.0f} s"
    elif ended is not None and ended[1] < 0:
        rank, what = ended[0], f"was killed by {signal_name(-ended[1])}"
    elif failed and (len(signs) == 1 or [sign.error for sign in failed].count(failed[0].error) > 1):
        return failed[0].error or ""  # of the configuration or the data: no rank is to blame
    elif failed:
        rank, what = failed[0].rank, f"failed: {failed[0].error}"
    elif error is not None:
        return error
    elif ended is not None:
        rank, what = ended[0], f"ended with exit code {ended[1]}"
    else:
        return "the workers ended without saying why"
    lines = [f"{signs[rank].name if rank in signs else f'rank {rank}'} {what}"]
    if len(signs) > 1:
        lines += ["Where the ranks were last seen:", describe_ranks(signs.values())]
    if rank in logs:
        said = tail(logs[rank])
        lines += [f"The last lines of {logs[rank]}:", said] if said else [f"It wrote nothing to {logs[rank]}."]
    return "\n".join(lines)


def signal_name(number: int) -> str:
    """`SIGKILL` with what usually sends it, or another name."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (the system kills so when memory runs out)" if name == "SIGKILL" else name


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of an output, without tracebacks that only tell of a lost connection."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(_CONSEQUENCE.sub("", text).splitlines()[-lines:])
