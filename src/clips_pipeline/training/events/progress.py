"""Progress in the terminal: a start-up line, a bar with the losses, and each evaluation."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from clips_pipeline.io.terminal import safe_text
from clips_pipeline.training.events.event_log import Event

PLAIN_LINES = 10  # without a terminal, about this many lines for a whole training


class Progress:
    """Shows events: as a live bar in a terminal, as a few plain lines elsewhere (CI, a log file).

    Args:
        steps: optimizer steps of the run.
        console: where to write.
    """

    def __init__(self, steps: int, console: Console | None = None):
        self._steps = steps
        self._console = console or Console(stderr=True)
        self._plain_every = max(1, steps // PLAIN_LINES)
        self._next_plain = self._plain_every
        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, note="starting ranks")

    def show(self, event: Event) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "start":
            self._print(start_line(event))
        elif kind == "step":
            self._bar.update(self._task, completed=event["step"], note=step_note(event))
            if not self._console.is_terminal and (event["step"] >= self._next_plain or event["step"] == self._steps):
                self._next_plain = event["step"] + self._plain_every
                self._print(f"step {event['step']}/{self._steps}: {step_note(event)}")
        elif kind == "evaluation":
            shown = ", ".join(
                f"{name} {value:.4f}"
                for name, value in event["metrics"].items()
                if name in ("mean_recall@1", "caption_loss")
            )
            self._print(f"step {event['step']}: held-out {shown}")
        elif kind == "stall":
            names = ("rank", "seconds", "worker", "shard")
            self._print(stall_line(*(event[name] for name in names)), style="yellow")
        elif kind == "damaged":
            line = damaged_line(event["path"], event["reason"], event["instead"])
            self._print(line, style="yellow")
        elif kind == "changed":
            for key, (before, now) in event["values"].items():
                line = f"from step {event['step']}: {key} is {now}; it was {before}"
                self._print(line, style="yellow")
        elif kind == "interrupted":
            self._print(f"interrupted at step {event['step']}: {event['reason']}")
        elif kind == "stop":
            self._print(f"stopped on request at step {event['step']}")

    def _print(self, line: str, style: str | None = None) -> None:
        # Shard addresses and reasons come from data and from errors.
        self._console.print(safe_text(line), style=style, highlight=False, markup=False)

    def __enter__(self) -> "Progress":
        """Start the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar and restore the terminal."""
        self._bar.stop()


_SHOWN = ("mean_recall@1", "caption_loss")


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
