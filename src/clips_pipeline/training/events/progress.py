"""Progress of a training: a start-up line, a bar with the losses, and each evaluation."""

import logging
from types import TracebackType

from clips_pipeline.progress import Stage
from clips_pipeline.training.events.event_log import Event

log = logging.getLogger(__name__)


class Progress:
    """Shows events: steps as a stage, all others as log lines.

    Args:
        steps: optimizer steps of the run.
        title: name of the stage.
    """

    def __init__(self, steps: int, title: str = "train"):
        self._stage = Stage(title, steps, "steps", note="starting ranks")

    def show(self, event: Event) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "start":
            log.info("%s", start_line(event))
        elif kind == "step":
            self.count(event)
        elif kind == "evaluation":
            shown = ", ".join(
                f"{name} {value:.4f}"
                for name, value in event["metrics"].items()
                if name in ("mean_recall@1", "caption_loss")
            )
            log.info("step %d: held-out %s", event["step"], shown)
        elif kind == "stall":
            log.warning("%s", stall_line(event["rank"], event["seconds"], event["worker"], event["shard"]))
        elif kind == "damaged":
            log.warning("%s", damaged_line(event["path"], event["reason"], event["instead"]))
        elif kind == "changed":
            for key, (before, now) in event["values"].items():
                log.warning("from step %d: %s is %s; it was %s", event["step"], key, now, before)
        elif kind == "interrupted":
            log.info("interrupted at step %d: %s", event["step"], event["reason"])
        elif kind == "stop":
            log.info("stopped on request at step %d", event["step"])

    def count(self, event: Event) -> None:
        """Show a step alone, for a training inside another stage."""
        if event["kind"] == "step":
            self._stage.update(event["step"], step_note(event))

    def __enter__(self) -> "Progress":
        """Start the stage."""
        self._stage.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the stage."""
        self._stage.__exit__(kind, error, trace)


def start_line(event: Event) -> str:
    """Return samples, steps, parameters, FLOPs and the chance losses, on one line or two."""
    resumed = f"resuming from {event['resumed_from']}\n" if event["resumed_from"] else ""
    values = (
        (
            "contrastive" if event.get("contrastive") == "sigmoid" else "contrastive ln(N)",
            event["chance_contrastive_loss"],
        ),
        ("caption ln(V)", event["chance_caption_loss"]),
    )
    chance = [f"{name} = {value:.3f}" for name, value in values if value is not None]
    return (
        f"{resumed}{event['size']}: {event['parameters']:,} parameters, up to "
        f"{event['training_flops_per_sample'] / 1e9:.2f} GFLOP per sample; {event['samples']:,} samples "
        f"({event['epochs']:.1f} epochs of {event['train_samples']:,}) in {event['steps']:,} steps of {event['batch_size']}; "
        f"chance: {', '.join(chance)}"
    )


def stall_line(rank: int, seconds: float, worker: int | None, shard: str | None) -> str:
    """Return which rank waits for data, how long, and which shard its slowest loader worker reads."""
    reader = f"worker {worker} is reading {shard}" if shard is not None else "no worker is reading a shard"
    return f"rank {rank} has waited {seconds:.0f} s for a batch: {reader}"


def damaged_line(path: str, reason: str, instead: str | None) -> str:
    """Return which checkpoint is refused, why, and which one is used instead."""
    return f"damaged checkpoint, moved to {path}: {reason}; resuming from {instead}"


def step_note(event: Event) -> str:
    """Return the losses of the method, and the speed."""
    losses = "  ".join(
        f"{name} {event['losses'][name]:.3f}" for name in ("contrastive", "caption") if name in event["losses"]
    )
    return f"{losses}  {event['samples_per_s']:,.0f} samples/s"
