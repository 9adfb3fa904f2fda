"""Benchmark of an optimizer step (forward, backward, AdamW), compared with the published layout built from open_clip's parts.

    python -m benchmarks.step [--peer open_clip] [--sizes s16 b16] [--steps 5] [--json]
    python -m benchmarks.step --peer open_clip --turns --padding mask --steps 10
    python -m benchmarks.step --profile [--sizes s16]
    python -m benchmarks.step --sizes s16 --batch 512 --chunk 32 --steps 1

S/16 at 112 pixels with batches of 32 and B/16 at 112 pixels with batches of 16, fp32, on the CPU. Captions are as long as in
Recap-DataComp: web captions about 10 tokens, one sentence about 15, the whole synthetic caption about 60; ids are random.
Each side runs in a separate process, so that peak memory can be measured, one after the other. With `--turns` all sides run at the
same time and take turns step by step, so that a machine whose speed changes is no matter; ratios are medians over the turns.
That needs the memory of all: for B/16 give one padding. Ours computes the hidden
layers of MLPs again in the backward pass, or keeps them (`train.launch.recompute`). `samples_per_s` is the median over the steps
after two steps of warm-up; gradients are freed after each step, as in training. Memory is the peak of the two
warm-up steps, in which gradients are kept, minus the memory before the model was created, parameters, gradients and AdamW's two
moments. `fraction_of_peak` compares the operations of a side (`gflop_per_sample`: matrix products, three times the forward pass,
without recomputation) with a large matrix product measured in the same run. With a peer, the losses of the first batch, from the
same weights, must agree.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.step_sides import run_sides

PIXELS = 112
BATCHES = {"s16": 32, "b16": 16, "l16": 8, "ti16": 64}
PADDINGS = ("mask", "attend")
KEPT = ", hidden layers kept"
"""Second side of each padding: what `recompute: auto` does where memory allows. The first computes hidden layers again."""
# Mean and standard deviation of the logarithm of the length in tokens.
LENGTHS = {"web": (2.15, 0.55), "fragment": (2.62, 0.45), "target": (4.06, 0.27)}
_STATE_BYTES = 4 * 4  # a parameter, its gradient and its two moments, in float32
_WARM_UP = 2
_LOSS_TOLERANCE = 1e-4


def config_of(size: str, padding: str = "attend", pixels: int = PIXELS) -> Any:
    """Return a named size at the resolution of the benchmark, or at another one."""
    import dataclasses

    from clips_pipeline.models.sizes import SIZES

    named = SIZES[size]
    return dataclasses.replace(
        named,
        vision=dataclasses.replace(named.vision, image_size=pixels),
        text=dataclasses.replace(named.text, padding=padding),
    )


def batches(size: str, batch: int, pixels: int = PIXELS) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield images and rows of ids, a function of the number of the batch, so the same for every side."""
    import torch

    config = config_of(size, pixels=pixels)
    row_lengths = {"web": config.text.context_length, "fragment": config.text.context_length, "target": 128}
    number = 0
    while True:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(batch, 3, pixels, pixels, generator=generator)
        rows = []
        for kind, row_length in row_lengths.items():
            mean, deviation = LENGTHS[kind]
            lengths = torch.exp(mean + deviation * torch.randn(batch, generator=generator)).round().long()
            lengths = lengths.clamp(1, row_length - (2 if kind == "target" else 3))
            position = torch.arange(row_length)[None, :]
            body = torch.randint(103, config.text.vocab_size, (batch, row_length), generator=generator)
            ids = torch.where(position <= lengths[:, None], body, 0)
            ids[:, 0] = 1
            ids.scatter_(1, lengths[:, None] + 1, 2)
            if kind != "target":
                ids[:, -1] = 101
            rows.append(ids)
        yield images, rows[0], rows[1], rows[2]
        number += 1


def measure(side: str, size: str, batch: int, steps: int, chunk: int | None) -> dict[str, Any]:
    """Measure one side in this process, whose parent gives a line of standard input for each timed step."""
    import torch

    torch.manual_seed(0)
    config = config_of(size, "attend" if side == "open_clip" else side.removesuffix(KEPT))
    loss_of: Any
    if side == "open_clip":
        from benchmarks.step_peer import PublishedLayout, copy_weights
        from clips_pipeline.models.clips import ClipsModel

        before = _now_bytes()
        weights = ClipsModel(config)
        model: Any = PublishedLayout(config)
        copy_weights(weights, model)
        del weights
        loss_of = model
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.2)
    else:
        from clips_pipeline.losses.total import clips_loss
        from clips_pipeline.models.blocks import keep_hidden_layers
        from clips_pipeline.models.clips import ClipsModel
        from clips_pipeline.models.grad_cache import forward_in_chunks
        from clips_pipeline.training.config import OptimizerConfig
        from clips_pipeline.training.optimizer import adamw

        before = _now_bytes()
        model = ClipsModel(config)
        keep_hidden_layers(model, side.endswith(KEPT))
        optimizer = adamw(model, OptimizerConfig(peak_lr=1e-4, final_lr=0.0))

        def loss_of(*inputs: Any) -> Any:
            output = model(*inputs) if chunk is None else forward_in_chunks(model, *inputs, chunk)
            return clips_loss(output, model.captioner.head.weight).total

    parameters = sum(p.numel() for p in model.parameters())
    seconds, first, peak = [], math.nan, 0
    for number, inputs in enumerate(batches(size, batch)):
        if number >= _WARM_UP:
            print(flush=True)
            sys.stdin.readline()
        started = time.perf_counter()
        loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=number >= _WARM_UP)
        seconds.append(time.perf_counter() - started)
        first = float(loss.detach()) if number == 0 else first
        del loss
        if number < _WARM_UP:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if number == steps + _WARM_UP - 1:
            break
    return {
        "seconds": seconds[_WARM_UP:],
        "first_loss": first,
        "parameters": parameters,
        "activation_gib": max(0, peak - before - _STATE_BYTES * parameters) / 2**30,
        "peak_rss_gib": peak / 2**30,
    }


def matrix_peak() -> float:
    """Return the floating-point operations per second of a large float32 matrix product."""
    import torch

    n = 4096
    a, b = torch.randn(n, n), torch.randn(n, n)
    a @ b
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        a @ b
        rates.append(2 * n**3 / (time.perf_counter() - started))
    return max(rates)


def required_operations(size: str, batch: int, steps: int, side: str) -> float:
    """Return the operations of an average step: of all tokens for `mask`, of full text rows for `attend` and for the peer."""
    from clips_pipeline.models.flops import training_flops

    padding = side.removesuffix(KEPT)
    if padding not in PADDINGS:
        from benchmarks.plain import forward_flops

        return 3.0 * batch * forward_flops(config_of(size))
    config, total = config_of(size, padding), 0
    for number, (_, web, fragment, target) in enumerate(batches(size, batch)):
        if number >= _WARM_UP:
            for w, f, t in zip((web > 0).sum(1), (fragment > 0).sum(1), (target > 0).sum(1), strict=True):
                lengths = (int(w), int(f)) if padding == "mask" else (web.shape[1], fragment.shape[1])
                total += training_flops(config, *lengths, int(t) - 1)
        if number == steps + _WARM_UP - 1:
            break
    return total / steps


def profile(size: str, batch: int, padding: str) -> list[tuple[str, float]]:
    """Return the milliseconds of one step by operator, the largest first."""
    import torch
    from torch.profiler import ProfilerActivity

    from clips_pipeline.losses.total import clips_loss
    from clips_pipeline.models.clips import ClipsModel
    from clips_pipeline.training.config import OptimizerConfig
    from clips_pipeline.training.optimizer import adamw

    model = ClipsModel(config_of(size, padding))
    optimizer = adamw(model, OptimizerConfig(peak_lr=1e-4, final_lr=0.0))
    source = batches(size, batch)

    def step() -> None:
        clips_loss(model(*next(source)), model.captioner.head.weight).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    inputs = next(source)
    source = iter([inputs])
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times: dict[str, float] = {}
    for event in found.key_averages():
        if event.self_cpu_time_total:
            times[event.key] = times.get(event.key, 0.0) + event.self_cpu_time_total / 1000
    return sorted(times.items(), key=lambda item: -item[1])


def _now_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def compare_sides(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides of one size."""
    batch = options.batch or BATCHES[size]
    ours = [padding + kept for padding in options.padding for kept in ("", KEPT)]
    sides = [*ours, *([options.peer] if options.peer else [])]
    requests = {side: (side, size, batch, options.steps, options.chunk) for side in sides}
    runs = [run_sides(requests, options.steps, in_turns=options.turns) for _ in range(options.repeats)]
    seconds = {side: [one for run in runs for one in run[side]["seconds"]] for side in sides}
    peak = matrix_peak()
    found: dict[str, Any] = {"size": size, "batch": batch, "matrix_product_gflops": round(peak / 1e9, 1)}
    for side in sides:
        median = statistics.median(seconds[side])
        facts = {
            "samples_per_s": round(batch / median, 2),
            "activation_gib": round(max(run[side]["activation_gib"] for run in runs), 2),
            "peak_rss_gib": round(max(run[side]["peak_rss_gib"] for run in runs), 2),
            "first_loss": runs[0][side]["first_loss"],
        }
        operations = required_operations(size, batch, options.steps, side)
        facts["gflop_per_sample"] = round(operations / batch / 1e9, 1)
        facts["fraction_of_peak"] = round(operations / median / peak, 3)
        found[side] = facts

    def ratio(side: str, other: str) -> float:
        """Return how many times the samples per second of the other side this one makes."""
        if options.turns:
            return round(statistics.median(b / a for a, b in zip(seconds[side], seconds[other], strict=True)), 3)
        return round(statistics.median(seconds[other]) / statistics.median(seconds[side]), 3)

    for padding in options.padding:
        found[padding + KEPT]["times_recomputed"] = ratio(padding + KEPT, padding)
    if options.peer:
        peer = found[options.peer]
        for side in ours:
            found[side]["times_peer"] = ratio(side, options.peer)
            found[side]["memory_of_peer"] = round(found[side]["activation_gib"] / peer["activation_gib"], 3)
        if "attend" in options.padding:
            difference = abs(found["attend"]["first_loss"] - peer["first_loss"])
            if difference > _LOSS_TOLERANCE:
                raise SystemExit(
                    f"{size}: the first loss differs from the peer's by {difference:.2g}; not the same model"
                )
    return found


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["open_clip"])
    parser.add_argument("--sizes", nargs="+", default=["s16", "b16"], choices=sorted(BATCHES))
    parser.add_argument("--padding", nargs="+", default=list(PADDINGS), choices=PADDINGS)
    parser.add_argument("--batch", type=int, help="samples per step; by default 32 for S/16, 16 for B/16")
    parser.add_argument("--chunk", type=int, help="samples whose activations are held at a time")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each run")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--turns", action="store_true", help="all sides at the same time, each step in turn")
    parser.add_argument("--profile", action="store_true", help="where the time of one step goes")
    parser.add_argument("--json", action="store_true", help="print one line of JSON per size")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    for size in options.sizes:
        if options.profile:
            for padding in options.padding:
                rows = profile(size, options.batch or BATCHES[size], padding)
                total = sum(ms for _, ms in rows)
                print(f"{size} {padding}: {total:.0f} ms")
                for name, ms in rows[:16]:
                    print(f"  {name:48} {ms:9.1f} ms {100 * ms / total:5.1f} %")
            continue
        found = compare_sides(size, options)
        if options.json:
            print(json.dumps(found))
            continue
        print(f"{size}, batch {found['batch']}, matrix product {found['matrix_product_gflops']} GFLOP/s")
        for side in (name for name, facts in found.items() if isinstance(facts, dict)):
            print(f"  {side:30} " + "  ".join(f"{name} {value}" for name, value in found[side].items()))


if __name__ == "__main__":
    main()
