"""Parts `speed:…`: one case beside the padded layout in plain PyTorch, both with and without torch.compile."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.setup import NOMINAL, Case, Inputs, attempt, device, fitting, inputs_of, ours, peer, time_steps
from benchmarks.plain import forward_flops
from clips_pipeline.models.flops import training_flops

PEERS = ("plain compiled", "plain eager")
# The compilation of the whole peer takes longest.
SIDES = ("ours compiled", "ours eager", "plain eager", "ours compiled, bf16 stream", "plain compiled")


def measure(case: Case, *, smoke: bool) -> Iterator[dict[str, Any]]:
    """Yield one line per side, all with the same batch, then the ratio of the fastest ones."""
    case = fitting(case)
    inputs, rates = inputs_of(case, 2), dict[str, float]()
    for side in SIDES:
        if smoke and "compiled" in side:
            # A smoke test on a machine without a compiler; `tests/unit/models/test_compiled.py` compiles.
            continue
        if case.chunk is not None and side in PEERS:
            # Its loss sees one chunk only, so it is timed with the batch of a chunk.
            alone = fitting(replace(case, batch=case.chunk, chunk=None))
            line = run_side(side, alone, inputs_of(alone, 2), smoke=smoke)
        else:
            line = run_side(side, case, inputs, smoke=smoke)
        rates[side] = line.get("samples_per_s", 0.0)
        yield line
    best = max((rates[side] for side in SIDES if side in rates and side not in PEERS), default=0.0)
    beside = max((rates[side] for side in PEERS if side in rates), default=0.0)
    yield {"case": case.name, "best_of_ours": best, "best_of_plain": beside, "ratio": best / beside if beside else None}


def run_side(side: str, case: Case, inputs: list[Inputs], *, smoke: bool) -> dict[str, Any]:
    """Measure one side. A side that fails, such as by a batch that does not fit, is a line with its error."""
    compiled, halves = "compiled" in side, "bf16 stream" in side
    line: dict[str, Any] = {"case": case.name, "side": side, "batch": case.batch}

    def steps() -> dict[str, Any]:
        torch.manual_seed(0)
        made = peer(case, compiled=compiled) if side in PEERS else ours(case, compiled=compiled, bf16_stream=halves)
        model, loss_of = made
        return time_steps(loss_of, model, inputs, warm_up=1 if smoke else 4, steps=1 if smoke else 6)

    line |= attempt(steps)
    if "error" in line:
        return line
    operations = operations_of(case, inputs[0], padded=side in PEERS)
    line["samples_per_s"] = case.batch / line["seconds"]
    line["gflop_per_sample"] = operations / case.batch / 1e9
    line["tflops"] = operations / line["seconds"] / 1e12
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
        nominal = next((peak for card, peak in NOMINAL.items() if card in name), None)
        line["mfu_nominal"] = None if nominal is None else operations / line["seconds"] / nominal
    return line


def operations_of(case: Case, inputs: Inputs, *, padded: bool) -> float:
    """Return the operations of a step, forward and backward, without recomputation."""
    config = case.config()
    if padded:
        return 3.0 * case.batch * forward_flops(config)
    ids = [tensor.cpu() for tensor in inputs.tensors[1:]]
    total = 0
    for web, fragment, target in zip(*((part != 0).sum(1).tolist() for part in ids), strict=True):
        lengths = (web, fragment) if case.padding == "mask" else (ids[0].shape[1], ids[1].shape[1])
        total += training_flops(config, *lengths, target - 1)
    return float(total)
