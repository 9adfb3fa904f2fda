"""Step time on many GPUs, on paper: measured or predicted steps of one GPU, sizes of messages, and given bandwidths.

    python -m benchmarks.scaling --results out/gpu/results.jsonl --side "ours compiled" --size l14 --pixels 84
    python -m benchmarks.scaling --step 4096:5.7 --step 512:0.57 --step 64:0.071 --predicted [--json]

Nothing here runs on a GPU. `benchmarks.scaling_model` has the formulas. The compute time of a step is given by `--step
SAMPLES:SECONDS` or by lines of `benchmarks.gpu`.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scaling_model import BYTES, Costs, Network, ScaledStep, messages_of, scaled_step


def steps_of_results(file: Path, size: str, pixels: int, padding: str, side: str) -> list[tuple[int, float]]:
    """Return the steps that `benchmarks.gpu` has measured for a model, chunked or not.

    Raises:
        SystemExit: there are none.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    name = f"{size}-{pixels}-{padding}"
    cases = {line["case"]: line for line in lines if line.get("side") == side and "seconds" in line}
    found = {
        line["batch"]: line["seconds"]
        for case, line in cases.items()
        if case == name or case.startswith(f"{name}-chunk")
    }
    if not found:
        there = ", ".join(sorted({f"{line['case']} ({line['side']})" for line in lines if "seconds" in line}))
        raise SystemExit(f"{file}: no step of {name} ({side}); it has {there or 'none'}")
    return sorted(found.items())


def table(rows: Sequence[ScaledStep]) -> str:
    """Return the rows as Markdown."""
    columns = (
        "GPUs",
        "samples a GPU",
        "compute, ms",
        "gather, forward + backward",
        "gradients",
        "host, checkpoint",
        "step",
    )
    lines = [f"| {' | '.join((*columns, 'efficiency', 'samples a day'))} |", "| --- " * (len(columns) + 2) + "|"]
    for row in rows:
        ms = [
            1000 * value for value in (row.compute, row.gather, row.gather_backward, row.gradients, row.other, row.step)
        ]
        lines.append(
            f"| {row.gpus} | {row.samples_per_gpu:,} | {ms[0]:,.0f} | {ms[1]:.1f} + {ms[2]:.1f} | {ms[3]:.1f} | {ms[4]:.1f} "
            f"| {ms[5]:,.0f} | {row.efficiency:.0%} | {row.samples_per_day / 1e9:.2f} billion |"
        )
    return "\n".join(lines)


def _known_step(text: str) -> tuple[int, float]:
    samples, _, seconds = text.partition(":")
    try:
        found = int(samples), float(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected SAMPLES:SECONDS, such as 512:0.57") from None
    if min(found) <= 0 or not math.isfinite(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: both numbers must be above 0")
    return found


def _positive(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return value


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="l14", help="named size")
    parser.add_argument("--pixels", type=_count, default=84)
    parser.add_argument("--padding", choices=["attend", "mask"], default="attend")
    parser.add_argument("--batch", type=_count, default=32_768, help="samples of a step, over all GPUs")
    parser.add_argument("--chunk", type=_count, help="samples of a chunk of one GPU")
    parser.add_argument("--gpus", type=_count, nargs="+", default=[8, 64, 512])
    parser.add_argument("--step", type=_known_step, action="append", help="SAMPLES:SECONDS of one GPU; may be repeated")
    parser.add_argument("--predicted", action="store_true", help="label the given steps as predicted")
    parser.add_argument("--results", type=Path, help="results.jsonl of benchmarks.gpu")
    parser.add_argument("--side", default="ours compiled", help="side of benchmarks.gpu")
    parser.add_argument("--gpus-per-machine", type=_count, default=8)
    parser.add_argument("--inside", type=_positive, default=360.0, help="GB/s within a machine (bus bandwidth)")
    parser.add_argument(
        "--between", type=_positive, default=320.0, help="GB/s between machines, all cards of one together"
    )
    parser.add_argument("--latency-us", type=_positive, default=5.0, help="microseconds of a hop")
    parser.add_argument("--floor-ms", type=_positive, default=50.0, help="shortest step of one GPU")
    parser.add_argument("--host-ms", type=_positive, default=3.0, help="loader and trainer, each step")
    parser.add_argument(
        "--checkpoint-rate",
        type=float,
        default=10.0,
        help="GB/s of what a step waits for: the copy to CPU memory, or about 0.6 if it writes the checkpoint itself; 0: nothing",
    )
    parser.add_argument("--checkpoint-steps", type=_count, default=500)
    parser.add_argument("--communication", choices=sorted(BYTES), default="fp32", help="precision of what is sent")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    if (options.step is None) == (options.results is None):
        parser.error("give the steps of one GPU, either by --step or by --results")
    if options.checkpoint_rate < 0:
        parser.error("--checkpoint-rate: must be 0 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = options_of(arguments)
    if options.results is None:
        steps, origin = options.step, "predicted" if options.predicted else "given"
    else:
        steps = steps_of_results(options.results, options.size, options.pixels, options.padding, options.side)
        origin = f"measured ({options.results})"
    network = Network(options.gpus_per_machine, options.inside * 1e9, options.between * 1e9, options.latency_us / 1e6)
    costs = Costs(
        options.floor_ms / 1e3, options.host_ms / 1e3, options.checkpoint_rate * 1e9, options.checkpoint_steps
    )
    messages = messages_of(options.size, options.pixels, options.batch, communication=options.communication)
    rows = [
        scaled_step(gpus, options.batch, steps, messages, network, costs, chunk=options.chunk) for gpus in options.gpus
    ]
    if options.json:
        facts: dict[str, Any] = {"steps_of_one_gpu": origin, "messages": asdict(messages), "network": asdict(network)}
        print(json.dumps({**facts, "rows": [asdict(row) for row in rows]}))
        return
    print(
        f"Steps of one GPU: {origin}. Modeled: all else. Gradients {messages.gradients / 1e9:.2f} GB, features "
        f"{messages.features / 1e9:.3f} GB each way, checkpoint {messages.checkpoint / 1e9:.1f} GB.\n\n{table(rows)}"
    )


if __name__ == "__main__":
    main()
