"""The processes of a training: torchrun's agent, ranks, heartbeats, interrupts, and why a run ended."""

__all__ = [
    "agent",
    "agent_process",
    "failure",
    "folder_lock",
    "heartbeat",
    "interrupt",
    "launcher",
    "monitor",
    "result",
    "worker",
    "worker_main",
]
